/* An engine that thinks nothing: it answers as OpenAI's API does, so cheaply that only the gateway in front of it is measured.
 *
 *     mock_engine PORT EVENTS INTERVAL_MS WORDS
 *
 * A POST whose body says "stream":true gets a head, EVENTS server-sent events in a write each, and [DONE]. An event
 * has so many WORDS. With an interval of 0 all come at once, as fast as the reader takes them; else the first comes one interval after
 * the head. Any other POST gets a completion. GET answers what gateways ask an engine about itself. One thread, on 127.0.0.1; request
 * bodies have a Content-Length.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 256, FIRST_ROOM = 4096, LARGEST_REQUEST = 8 << 20 };
enum { TURN = 64 };               /* pieces of one stream that are written before others have their turn */
static const int SEND_BUFFER = 65536; /* a fixed one: the kernel's own grows to 4 MiB for each reader that stalls */

struct text { const char *bytes; size_t length; };

struct connection {
    int fd;                    /* -1: closed, but still in the queue */
    char *in;
    size_t have, room;         /* bytes of requests not yet answered */
    struct text out;           /* what the kernel has not taken yet */
    bool streaming, queued, wants_out;
    long events_left;
    uint64_t due_ms;           /* of the next event */
    struct connection *next;   /* in the queue */
};

static long stream_events;
static uint64_t interval_ms;
static int poller;
/* All streams have the same interval, so the queue of those that wait is in order of their due times by itself. */
static struct connection *first_waiting, **last_waiting = &first_waiting;

static struct text completion, models, about, healthy, gauges, length_required, stream_head, event, stream_end;

static struct text text_of(const char *bytes) { return (struct text){bytes, strlen(bytes)}; }

static struct text answer(const char *status, const char *type, const char *body) {
    char *bytes;
    if (asprintf(&bytes, "HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n\r\n%s", status, type, strlen(body), body) < 0) exit(1);
    return text_of(bytes);
}

static struct text event_of(long words) {
    const char *before = "data: {\"id\":\"chatcmpl-0\",\"object\":\"chat.completion.chunk\",\"created\":0,\"model\":\"m\",\"choices\":"
        "[{\"index\":0,\"delta\":{\"content\":\"", *word = " word", *after = "\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n";
    size_t data = strlen(before) + (size_t)words * strlen(word) + strlen(after);
    char *bytes = malloc(data + 32), *at = bytes;
    if (!bytes) exit(1);
    at = stpcpy(at + sprintf(at, "%zx\r\n", data), before);
    while (words-- > 0) at = stpcpy(at, word);
    stpcpy(stpcpy(at, after), "\r\n");
    return text_of(bytes);
}

static void prepare_answers(void) {
    const char *json = "application/json";
    completion = answer("200 OK", json,
        "{\"id\":\"chatcmpl-0\",\"object\":\"chat.completion\",\"created\":0,\"model\":\"m\",\"choices\":[{\"index\":0,\"message\":"
        "{\"role\":\"assistant\",\"content\":\"As long as an answer in a short chat is, give or take a word.\"},\"finish_reason\":\"stop\"}],"
        "\"usage\":{\"prompt_tokens\":24,\"completion_tokens\":16,\"total_tokens\":40}}");
    models = answer("200 OK", json, "{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"object\":\"model\",\"created\":0,\"owned_by\":\"mock\"}]}");
    about = answer("200 OK", json, "{\"model_path\":\"m\",\"served_model_name\":\"m\",\"is_generation\":true,\"tp_size\":1,\"dp_size\":1}");
    healthy = answer("200 OK", json, "{}");
    gauges = answer("200 OK", "text/plain; version=0.0.4", "# TYPE mock_up gauge\nmock_up 1\n");
    length_required = answer("411 Length Required", json, "{\"error\":{\"message\":\"the body has no Content-Length\"}}");

    stream_head = text_of("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
    stream_end = text_of("e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n");
}

static uint64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void wait_for_due(struct connection *c) {
    c->queued = true, c->next = NULL;
    *last_waiting = c, last_waiting = &c->next;
}

static void watch(struct connection *c, bool out) {
    struct epoll_event how = {.events = EPOLLIN | (out ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &how);
    c->wants_out = out;
}

static void end(struct connection *c) {
    close(c->fd);
    free(c->in);
    c->fd = -1, c->in = NULL;
    if (!c->queued) free(c);
}

/* Reads the fields of a head that has come whole. -1: the body's length is not said. */
static long body_length(const char *head, const char *stop) {
    long length = 0;
    for (const char *line = head; line < stop; line = (const char *)memchr(line, '\n', (size_t)(stop - line)) + 1) {
        if (!strncasecmp(line, "content-length:", 15)) length = strtol(line + 15, NULL, 10);
        if (!strncasecmp(line, "transfer-encoding:", 18)) return -1;
    }
    return length;
}

static struct text answer_to_get(const char *target) {
    if (!strncmp(target, "/v1/models", 10)) return models;
    if (!strncmp(target, "/metrics", 8)) return gauges;
    return strstr(target, "_info ") ? about : healthy;
}

static bool asks_for_stream(const char *body, size_t length) {
    return memmem(body, length, "\"stream\":true", 13) || memmem(body, length, "\"stream\": true", 14);
}

static void begin_answer(struct connection *c, char *body, size_t length) {
    if (strncmp(c->in, "POST ", 5)) {
        body[-1] = 0;
        c->out = answer_to_get(c->in + strcspn(c->in, "/"));
    } else if (asks_for_stream(body, length)) {
        c->out = stream_head, c->streaming = true, c->events_left = stream_events, c->due_ms = now_ms() + interval_ms;
    } else {
        c->out = completion;
    }
}

/* Takes the next whole request, if there is one. */
static bool next_request(struct connection *c) {
    char *blank = c->have ? memmem(c->in, c->have, "\r\n\r\n", 4) : NULL;
    if (!blank) return false;
    char *body = blank + 4;
    long length = body_length(c->in, body);
    if (length < 0) {
        c->out = length_required, c->have = 0;
        return true;
    }
    size_t whole = (size_t)(body - c->in) + (size_t)length;
    if (c->have < whole) return false;
    begin_answer(c, body, (size_t)length);
    memmove(c->in, c->in + whole, c->have -= whole);
    return true;
}

/* The next piece of a stream; false: its time has not come. */
static bool next_piece(struct connection *c) {
    if (!c->events_left) {
        c->out = stream_end, c->streaming = false;
        return true;
    }
    if (interval_ms && now_ms() < c->due_ms) {
        wait_for_due(c);
        return false;
    }
    c->out = event, c->events_left--, c->due_ms += interval_ms;
    return true;
}

/* Writes what there is to write, until the kernel or the clock says to wait. */
static void go_on(struct connection *c) {
    for (int pieces = 0; !c->queued; pieces++) {
        if (pieces == TURN) {
            if (!c->wants_out) watch(c, true);
            return;
        }
        while (c->out.length) {
            ssize_t sent = send(c->fd, c->out.bytes, c->out.length, MSG_NOSIGNAL);
            if (sent < 0) {
                if (errno != EAGAIN) end(c);
                else if (!c->wants_out) watch(c, true);
                return;
            }
            c->out.bytes += sent, c->out.length -= (size_t)sent;
        }
        if (c->wants_out) watch(c, false);
        if (c->streaming ? !next_piece(c) : !next_request(c)) return;
    }
}

static void receive(struct connection *c) {
    if (c->have == c->room) {
        c->room = c->room ? c->room * 2 : FIRST_ROOM;
        if (c->room > LARGEST_REQUEST || !(c->in = realloc(c->in, c->room))) exit(1);
    }
    ssize_t got = recv(c->fd, c->in + c->have, c->room - c->have, 0);
    if (got > 0) c->have += (size_t)got;
    else if (got == 0 || errno != EAGAIN) { end(c); return; }
    go_on(c);
}

static void send_what_is_due(void) {
    uint64_t now = now_ms();
    while (first_waiting && (first_waiting->fd < 0 || first_waiting->due_ms <= now)) {
        struct connection *c = first_waiting;
        if (!(first_waiting = c->next)) last_waiting = &first_waiting;
        c->queued = false;
        if (c->fd < 0) free(c);
        else go_on(c);
    }
}

static void welcome(int listener) {
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct connection *c = calloc(1, sizeof *c);
        if (!c) exit(1);
        c->fd = fd;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &SEND_BUFFER, sizeof SEND_BUFFER);
        struct epoll_event how = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &how);
    }
}

static int time_to_wait(void) {
    if (!first_waiting) return -1;
    uint64_t now = now_ms();
    return first_waiting->due_ms > now ? (int)(first_waiting->due_ms - now) : 0;
}

static int listen_on(int port) {
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in where = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&where, sizeof where) || listen(fd, 4096)) {
        perror("mock_engine");
        exit(1);
    }
    return fd;
}

static void take_all_files(void) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
}

int main(int count, char **words) {
    if (count != 5) return fprintf(stderr, "usage: mock_engine PORT EVENTS INTERVAL_MS WORDS\n"), 2;
    stream_events = atol(words[2]), interval_ms = (uint64_t)atol(words[3]);
    take_all_files();
    prepare_answers();
    event = event_of(atol(words[4]));
    int listener = listen_on(atoi(words[1]));
    poller = epoll_create1(0);
    struct epoll_event ready[BATCH], how = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &how);
    for (;;) {
        int found = epoll_wait(poller, ready, BATCH, time_to_wait());
        for (int i = 0; i < found; i++) {
            struct connection *c = ready[i].data.ptr;
            if (!c) welcome(listener);
            else if (ready[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) receive(c);
            else go_on(c);
        }
        send_what_is_due();
    }
}
