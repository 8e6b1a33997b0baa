#include "workers/syscalls.h"

#include <errno.h>
#include <sched.h>
#include <seccomp.h>
#include <string.h>
#include <sys/socket.h>

/* Allowed whatever the arguments. Those that only libraries or other kernels and C libraries use
 * stand beside those that we see. */
#define ALLOWED(X)                                                                                 \
    /* files: spool, log, configuration, certificates */                                           \
    X(read)                                                                                        \
    X(write)                                                                                       \
    X(readv) X(writev) X(pread64) X(pwrite64) X(preadv) X(pwritev) X(preadv2) X(pwritev2) X(open)  \
        X(openat) X(close) X(close_range) X(stat) X(fstat) X(lstat) X(newfstatat) X(statx)         \
            X(statfs) X(fstatfs) X(access) X(faccessat) X(faccessat2) X(lseek) X(fsync)            \
                X(fdatasync) X(msync) X(sync_file_range) X(truncate) X(ftruncate) X(fallocate)     \
                    X(fadvise64) X(flock) X(fcntl) X(unlink) X(unlinkat) X(rename) X(renameat)     \
                        X(renameat2) X(mkdir) X(mkdirat) X(rmdir) X(chmod) X(fchmod) X(fchmodat)   \
                            X(umask) X(getdents64) X(readlink) X(readlinkat) X(getcwd) X(dup)      \
                                X(dup2) X(dup3) X(pipe) X(pipe2) X(ioctl) X(copy_file_range)       \
                                    X(sendfile) /* memory */                                       \
        X(mmap) X(munmap) X(mremap) X(mprotect) X(madvise) X(brk) X(mincore)                       \
            X(membarrier) /* sockets; socket() itself stands below */                              \
        X(connect) X(bind) X(listen) X(accept) X(accept4) X(getsockname) X(getpeername)            \
            X(setsockopt) X(getsockopt) X(shutdown) X(sendto) X(recvfrom) X(sendmsg) X(recvmsg)    \
                X(sendmmsg) X(recvmmsg) /* waiting */                                              \
        X(epoll_create) X(epoll_create1) X(epoll_ctl) X(epoll_wait) X(epoll_pwait) X(epoll_pwait2) \
            X(poll) X(ppoll) X(select) X(pselect6) X(eventfd2) X(signalfd4) X(timerfd_create)      \
                X(timerfd_settime) X(timerfd_gettime) X(nanosleep) X(clock_nanosleep)              \
                    X(restart_syscall) X(inotify_init1) X(inotify_add_watch)                       \
                        X(inotify_rm_watch) /* threads and signals; clone() itself stands below */ \
        X(futex) X(futex_waitv) X(set_robust_list) X(get_robust_list) X(rseq) X(set_tid_address)   \
            X(sched_yield) X(sched_getaffinity) X(sched_setaffinity) X(sched_getparam)             \
                X(sched_getscheduler) X(getcpu) X(gettid) X(tgkill) X(exit) X(exit_group)          \
                    X(rt_sigaction) X(rt_sigprocmask) X(rt_sigreturn) X(rt_sigtimedwait)           \
                        X(rt_sigpending) X(sigaltstack) X(arch_prctl)                              \
                            X(prctl) /* clocks, randomness, who and where we are */                \
        X(clock_gettime) X(clock_getres) X(gettimeofday) X(time) X(getrandom) X(getpid) X(getppid) \
            X(getuid) X(geteuid) X(getgid) X(getegid) X(getresuid) X(getresgid) X(getgroups)       \
                X(capget) X(getrlimit) X(setrlimit) X(prlimit64) X(getrusage) X(sysinfo) X(uname)  \
                    X(times)

/* Whoever calls one of these is not us. */
#define DEADLY(X)                                                                                  \
    X(execve)                                                                                      \
    X(execveat)                                                                                    \
    X(fork) X(vfork) X(ptrace) X(process_vm_readv) X(process_vm_writev) X(setuid) X(setgid)        \
        X(setreuid) X(setregid) X(setresuid) X(setresgid) X(setgroups) X(capset) X(mount)          \
            X(umount2) X(pivot_root) X(chroot) X(unshare) X(setns) X(init_module) X(finit_module)  \
                X(delete_module) X(kexec_load) X(kexec_file_load) X(bpf) X(perf_event_open)        \
                    X(userfaultfd) X(add_key) X(keyctl) X(request_key) X(open_by_handle_at)        \
                        X(reboot) X(swapon) X(settimeofday) X(clock_settime) X(adjtimex)

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

static int add_all(scmp_filter_ctx filter)
{
    static const int allowed[] = {
#define X(name) SCMP_SYS(name),
        ALLOWED(X)
#undef X
    };
    static const int deadly[] = {
#define X(name) SCMP_SYS(name),
        DEADLY(X)
#undef X
    };
    int rc = 0;
    for (size_t i = 0; i < sizeof allowed / sizeof *allowed && rc == 0; i++)
        rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, allowed[i], 0);
    for (size_t i = 0; i < sizeof deadly / sizeof *deadly && rc == 0; i++)
        rc = seccomp_rule_add(filter, SCMP_ACT_KILL_PROCESS, deadly[i], 0);
    return rc;
}

/* A thread of this process, never another process. The C library asks with clone3() first, whose
 * flags a filter cannot see, and takes ENOSYS for "use clone()". */
static int add_threads(scmp_filter_ctx filter)
{
    return seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                            SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
}

/* The families that mail, DNS, the control socket and the C library's look at the interfaces take. */
static int add_sockets(scmp_filter_ctx filter)
{
    static const unsigned families[] = {AF_INET, AF_INET6, AF_UNIX, AF_NETLINK};
    int rc = 0;
    for (size_t i = 0; i < sizeof families / sizeof *families && rc == 0; i++) {
        rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1,
                              SCMP_A0(SCMP_CMP_EQ, families[i]));
        if (rc == 0)
            rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(socketpair), 1,
                                  SCMP_A0(SCMP_CMP_EQ, families[i]));
    }
    return rc;
}

bool syscalls_restrict(struct error *error)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
    int rc = filter != NULL ? seccomp_attr_set(filter, SCMP_FLTATR_CTL_LOG, 1) : -ENOMEM;
    /* A tree instead of a chain: the calls made most often come as cheap as the others. */
    if (rc == 0)
        rc = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    if (rc == 0)
        rc = add_all(filter);
    if (rc == 0)
        rc = add_threads(filter);
    if (rc == 0)
        rc = add_sockets(filter);
    if (rc == 0)
        rc = seccomp_load(filter);
    seccomp_release(filter);
    if (rc != 0)
        error_set(error, "cannot restrict system calls: %s; `seccomp: false` runs without",
                  strerrordesc_np(-rc));
    return rc == 0;
}

#else

bool syscalls_restrict(struct error *error)
{
    (void)error;
    return true;
}

#endif
