// The process that holds a pod's namespaces: it ends when told to, and collects orphans.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void end(int signal) { _exit(signal == SIGINT ? 1 : 0); }

static void collect(int signal) {
    (void)signal;
    while (waitpid(-1, 0, WNOHANG) > 0) {
    }
}

int main(void) {
    struct sigaction on_end = {.sa_handler = end};
    struct sigaction on_child = {.sa_handler = collect, .sa_flags = SA_NOCLDSTOP};
    if (sigaction(SIGTERM, &on_end, 0) || sigaction(SIGINT, &on_end, 0) ||
        sigaction(SIGCHLD, &on_child, 0)) {
        return 2;
    }
    for (;;) {
        pause();
    }
}
