/* The floor of a container's start: the work of the kernel and nothing else.
 *
 * usage: floor ROOTFS SCRATCH
 *
 * All namespaces, an overlay over ROOTFS, the standard mounts and devices,
 * pivot_root and the execution of /bin/true, then the removal of the overlay's
 * directories. No cgroup, no seccomp, no configuration, no record, no logs.
 * SCRATCH is an empty directory. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

static void check(int result, const char *what)
{
    if (result < 0) {
        fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
        _exit(125);
    }
}

static void device(const char *path, unsigned major_number, unsigned minor_number)
{
    check(mknod(path, S_IFCHR | 0666, makedev(major_number, minor_number)), path);
}

static void contained(const char *rootfs)
{
    char options[4096];
    unsigned long safe = MS_NOSUID | MS_NODEV | MS_NOEXEC;

    check(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "private mounts");
    snprintf(options, sizeof options, "lowerdir=%s,upperdir=upper,workdir=work", rootfs);
    check(mount("overlay", "merged", "overlay", 0, options), "overlay");
    check(chdir("merged"), "chdir");
    check(mount("proc", "proc", "proc", safe, NULL), "proc");
    check(mount("tmpfs", "dev", "tmpfs", MS_NOSUID, "mode=755,size=65536k"), "dev");
    check(mkdir("dev/pts", 0755), "dev/pts");
    check(mkdir("dev/shm", 0755), "dev/shm");
    check(mkdir("dev/mqueue", 0755), "dev/mqueue");
    check(mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
                "newinstance,ptmxmode=0666,mode=0620"), "devpts");
    check(mount("shm", "dev/shm", "tmpfs", safe, "mode=1777,size=65536k"), "shm");
    check(mount("mqueue", "dev/mqueue", "mqueue", safe, NULL), "mqueue");
    check(mount("sysfs", "sys", "sysfs", safe | MS_RDONLY, NULL), "sysfs");
    device("dev/null", 1, 3);
    device("dev/zero", 1, 5);
    device("dev/full", 1, 7);
    device("dev/random", 1, 8);
    device("dev/urandom", 1, 9);
    device("dev/tty", 5, 0);
    check(symlink("pts/ptmx", "dev/ptmx"), "ptmx");
    check(syscall(SYS_pivot_root, ".", "."), "pivot_root");
    check(umount2(".", MNT_DETACH), "detach");
    check(chdir("/"), "chdir /");
    execl("/bin/true", "true", NULL);
    check(-1, "/bin/true");
}

int main(int argc, char **argv)
{
    unsigned long flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC
                          | CLONE_NEWUTS | CLONE_NEWCGROUP | SIGCHLD;
    int status;

    if (argc != 3)
        return 2;
    check(chdir(argv[2]), argv[2]);
    check(mkdir("upper", 0755), "upper");
    check(mkdir("work", 0755), "work");
    check(mkdir("merged", 0755), "merged");
    long child = syscall(SYS_clone, flags, NULL, NULL, NULL, NULL);
    check(child, "clone");
    if (child == 0)
        contained(argv[1]);
    check(waitpid(child, &status, 0), "waitpid");
    check(rmdir("upper"), "upper");
    check(rmdir("work/work"), "work/work");
    check(rmdir("work"), "work");
    check(rmdir("merged"), "merged");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}
