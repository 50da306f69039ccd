/* A libnvidia-ml.so.1 for machines without a GPU: what it tells is set in the environment.
 *
 *   FAKE_NVML_COUNT=2         cards, each with 80 GiB, 40 C and 50 % use, and one process per card
 *   FAKE_NVML_INIT=9          what nvmlInit returns (9: driver not loaded)
 *   FAKE_NVML_MIG=1           this card is in MIG mode, with devices 0 and 2
 *   FAKE_NVML_LOST=1          this card has fallen off the bus
 *   FAKE_NVML_SILENT=Power    calls with this in their name are not supported
 *   FAKE_NVML_HANG=file       while this file exists, the count takes for ever
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, LOST = 15 };

typedef struct { int card, part; } device;
static device cards[16], parts[16][7];

static int number(const char *name, int otherwise) { const char *text = getenv(name); return text ? atoi(text) : otherwise; }

static int refuses(device *d, const char *call) {
    const char *silent = getenv("FAKE_NVML_SILENT");
    if (number("FAKE_NVML_LOST", -1) == d->card) return LOST;
    return silent && *silent && strstr(call, silent) ? NOT_SUPPORTED : OK;
}
#define CHECK(d) do { int refusal = refuses(d, __func__); if (refusal) return refusal; } while (0)
#define WHOLE(d) do { CHECK(d); if ((d)->part >= 0) return NOT_SUPPORTED; } while (0)

const char *nvmlErrorString(int code) { return code == 9 ? "Driver Not Loaded" : code == LOST ? "GPU is lost" : "an error of the fake"; }
int nvmlInitWithFlags(unsigned flags) { return number("FAKE_NVML_INIT", OK); }
int nvmlShutdown(void) { return OK; }

int nvmlDeviceGetCount_v2(unsigned *count) {
    const char *hang = getenv("FAKE_NVML_HANG");
    while (hang && access(hang, F_OK) == 0) usleep(10000);
    *count = number("FAKE_NVML_COUNT", 2);
    return OK;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, device **d) {
    *d = &cards[index];
    (*d)->card = index; (*d)->part = -1;
    return OK;
}
int nvmlDeviceGetUUID(device *d, char *text, unsigned size) {
    CHECK(d);
    if (d->part < 0) snprintf(text, size, "GPU-%04d-fake", d->card);
    else snprintf(text, size, "MIG-%04d-%d-fake", d->card, d->part);
    return OK;
}
int nvmlDeviceGetName(device *d, char *text, unsigned size) {
    CHECK(d);
    snprintf(text, size, d->part < 0 ? "NVIDIA Fake 80GB" : "NVIDIA Fake MIG 1g.10gb");
    return OK;
}
int nvmlDeviceGetMemoryInfo(device *d, unsigned long long *memory) { /* total, free, used */
    CHECK(d);
    memory[0] = (d->part < 0 ? 80ull : 10ull) << 30; memory[2] = 1ull << 30; memory[1] = memory[0] - memory[2];
    return OK;
}
int nvmlDeviceGetUtilizationRates(device *d, unsigned *rates) { WHOLE(d); rates[0] = 50; rates[1] = 10; return OK; }
int nvmlDeviceGetTemperature(device *d, int sensor, unsigned *celsius) { WHOLE(d); *celsius = 40 + d->card; return OK; }
int nvmlDeviceGetPowerUsage(device *d, unsigned *milliwatts) { WHOLE(d); *milliwatts = 123456; return OK; }
int nvmlDeviceGetTotalEccErrors(device *d, int kind, int counter, unsigned long long *errors) { WHOLE(d); *errors = number("FAKE_NVML_ECC_ERRORS", 0); return OK; }

typedef struct { unsigned pid; unsigned long long memory; unsigned instance, compute; } process;
int nvmlDeviceGetComputeRunningProcesses_v3(device *d, unsigned *count, process *found) {
    CHECK(d);
    if (*count < 1) { *count = 1; return INSUFFICIENT_SIZE; }
    *count = 1;
    found[0] = (process){1000 + d->card, d->card ? ~0ull : 1ull << 30, 0, 0}; /* ~0: not available */
    return OK;
}
int nvmlDeviceGetMigMode(device *d, unsigned *current, unsigned *pending) {
    CHECK(d);
    *current = *pending = number("FAKE_NVML_MIG", -1) == d->card;
    return OK;
}
int nvmlDeviceGetMaxMigDeviceCount(device *d, unsigned *count) { *count = 7; return OK; }
int nvmlDeviceGetMigDeviceHandleByIndex(device *d, unsigned index, device **part) {
    if (index != 0 && index != 2) return NOT_FOUND;
    *part = &parts[d->card][index];
    (*part)->card = d->card; (*part)->part = index;
    return OK;
}
