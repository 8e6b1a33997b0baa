#include "workers/privileges.h"

#include "workers/syscalls.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_MAX_BYTES = 4096 };

/* Is that how getpwnam says that there is none (getpwnam(3))? */
static bool means_none(int error)
{
    return error == 0 || error == ENOENT || error == ESRCH || error == EBADF || error == EPERM;
}

/* The configured user's entry; NULL with `error`. Called before there are threads. */
static const struct passwd *find_user(const char *name, struct error *error)
{
    errno = 0;
    const struct passwd *user = getpwnam(name); /* NOLINT(concurrency-mt-unsafe) */
    if (user == NULL && !means_none(errno))
        error_set(error, "user: %s cannot be looked up: %m; start the relay again", name);
    else if (user == NULL)
        error_set(error,
                  "user: there is no user %s on this system; make one with: useradd "
                  "--system --home-dir /var/lib/onward --shell /usr/sbin/nologin %s",
                  name, name);
    return user;
}

bool privileges_check(const struct config *config, struct error *error)
{
    bool root = geteuid() == 0;
    if (config->user == NULL) {
        if (root)
            error_set(error, "started as root without `user`: set `user: onward` to run as that "
                             "user once the listeners are bound, or `user: root` if root is meant");
        return !root;
    }
    const struct passwd *user = find_user(config->user, error);
    if (user == NULL)
        return false;
    if (!root && user->pw_uid != geteuid()) {
        error_set(error, "user: only root can become %s; start the relay as root or as %s",
                  config->user, config->user);
        return false;
    }
    return true;
}

/* ---- becoming the user ---- */

/* Makes a folder that is missing, and gives it to the user. One that is there is left alone: the
 * user's rights to it show when it is used. */
static bool make_folder(const char *path, mode_t mode, const struct passwd *user,
                        struct error *error)
{
    if (mkdir(path, mode) != 0) {
        if (errno == EEXIST)
            return true;
        error_set(error, "cannot create %s: %m", path);
        return false;
    }
    if (chown(path, user->pw_uid, user->pw_gid) == 0)
        return true;
    error_set(error, "cannot give %s to %s: %m", path, user->pw_name);
    return false;
}

static bool make_folders(const struct config *config, const struct passwd *user,
                         struct error *error)
{
    char folder[PATH_MAX_BYTES];
    const char *slash = strrchr(config->control.socket, '/');
    (void)snprintf(folder, sizeof folder, "%.*s", (int)(slash - config->control.socket),
                   config->control.socket);
    return make_folder(config->spool.path, 0700, user, error) &&
           (folder[0] == '\0' || make_folder(folder, 0750, user, error));
}

bool privileges_drop(const struct config *config, struct error *error)
{
    if (geteuid() != 0 || config->user == NULL)
        return true;
    const struct passwd *user = find_user(config->user, error);
    if (user == NULL)
        return false;
    if (user->pw_uid == 0)
        return true;
    if (!make_folders(config, user, error))
        return false;
    if (initgroups(user->pw_name, user->pw_gid) != 0 ||
        setresgid(user->pw_gid, user->pw_gid, user->pw_gid) != 0 ||
        setresuid(user->pw_uid, user->pw_uid, user->pw_uid) != 0) {
        error_set(error, "cannot become %s: %m", user->pw_name);
        return false;
    }
    if (setresuid(0, 0, 0) == 0) { /* it must not come back */
        error_set(error, "became %s, but could become root again", user->pw_name);
        return false;
    }
    return true;
}

/* ---- what it can no longer do ---- */

static bool forbid_core_dumps(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return true; /* the sanitizers trace their own process, which this would forbid */
#else
    const struct rlimit none = {0, 0};
    /* The limit alone does not keep a core from a program that the kernel pipes it to. */
    return setrlimit(RLIMIT_CORE, &none) == 0 && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0;
#endif
}

bool privileges_confine(const struct config *config, struct error *error)
{
    (void)umask(0077);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || !forbid_core_dumps()) {
        error_set(error, "cannot give up privileges: %m");
        return false;
    }
    return !config->seccomp || syscalls_restrict(error);
}
