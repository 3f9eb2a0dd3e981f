/* Where a subject that serves is asked: port 7000 of every address. */
#include <netinet/in.h>
#include <sys/socket.h>

static int listen_for_clients(void) {
    struct sockaddr_in6 at = {.sin6_family = AF_INET6, .sin6_port = htons(7000)};
    int one = 1, listener = socket(AF_INET6, SOCK_STREAM, 0);
    MUST(listener >= 0 && !setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
    MUST(!bind(listener, (struct sockaddr *)&at, sizeof at) && !listen(listener, 64));
    return listener;
}
