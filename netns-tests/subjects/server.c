/* A server on port 7000 that gives back what it gets. A client that says `d` first is sent numbers
 * without end instead, each eight bytes long and one more than the last. */
#include <poll.h>

#include "subject.h"
#include "listener.h"

enum { CLIENTS = 64, ROOM = 1 << 16 };
struct client { int fd; char mode; bool ended; unsigned char bytes[ROOM]; size_t from, to; uint64_t next; };
static struct client clients[CLIENTS];
static int listener, count, served, lost;

static void let_go(int at) {
    close(clients[at].fd);
    clients[at] = clients[--count];
}

/* False when the connection is over. */
static bool serve(struct client *c, short events) {
    if (events & POLLIN && c->mode != 'd' && c->to < ROOM && !c->ended) {
        ssize_t n = recv(c->fd, c->bytes + c->to, c->mode ? ROOM - c->to : 1, MSG_DONTWAIT);
        if (n < 0) return errno == EAGAIN || (lost++, false);
        if (n == 0) c->ended = true;
        else if (c->mode) c->to += (size_t)n;
        else c->mode = (char)c->bytes[0];
    }
    if (c->mode == 'd' && c->from == c->to) {
        c->from = 0;
        for (c->to = 0; c->to < ROOM; c->to += 8, c->next++) memcpy(c->bytes + c->to, &c->next, 8);
    }
    while (c->from < c->to) {
        ssize_t n = send(c->fd, c->bytes + c->from, c->to - c->from, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0) return errno == EAGAIN || (c->mode == 'd' && errno == EPIPE) || (lost += c->mode != 'd', false);
        c->from += (size_t)n;
    }
    if (c->mode == 'e') c->from = c->to = 0;
    return !c->ended;
}

static void *run(UNUSED void *nothing) {
    for (;;) {
        struct pollfd polled[CLIENTS + 1] = {{listener, POLLIN, 0}};
        int polling = count;
        for (int i = 0; i < polling; i++) {
            struct client *c = &clients[i];
            bool writes = c->mode == 'd' || c->from < c->to, reads = c->mode != 'd' && c->to < ROOM && !c->ended;
            polled[i + 1] = (struct pollfd){c->fd, (short)((reads ? POLLIN : 0) | (writes ? POLLOUT : 0)), 0};
        }
        if (poll(polled, (nfds_t)polling + 1, -1) < 0) continue;
        for (int i = polling; i-- > 0;)
            if (polled[i + 1].revents && !serve(&clients[i], polled[i + 1].revents)) let_go(i);
        if (polled[0].revents && count < CLIENTS) {
            int fd = accept(listener, NULL, NULL);
            if (fd >= 0) clients[count++] = (struct client){.fd = fd}, served++;
        }
    }
    return NULL;
}

int main(int argc, char **argv) {
    begin(argc, argv);
    listener = listen_for_clients();
    pthread_t thread;
    MUST(!pthread_create(&thread, NULL, run, NULL));
    ready();
    wait_for_question();
    long clients_wanted = option_number("clients", 0);
    if (sabotage) lost++;
    CHECK_EQUAL(lost, 0, "connections that broke");
    CHECK(served >= clients_wanted, "%d clients were served, at least %ld came", served, clients_wanted);
    snprintf(extra_report, sizeof extra_report, " served=%d", served);
    verdict();
}
