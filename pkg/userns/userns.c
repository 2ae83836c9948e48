//go:build linux

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "userns.h"

/* Set once the process has joined; -1 before. Read by Go. */
int balena_userns_uid = -1;
int balena_userns_gid = -1;
int balena_userns_conn = -1;

#define SOCKET_NAME "userns.sock"
#define LINGER_MS 3000

/* The socket is addressed through its folder's descriptor, since a path may be
 * longer than sun_path. */
static int address(int dir, struct sockaddr_un *a)
{
	memset(a, 0, sizeof *a);
	a->sun_family = AF_UNIX;
	return snprintf(a->sun_path, sizeof a->sun_path, "/proc/self/fd/%d/" SOCKET_NAME, dir) <
		       (int)sizeof a->sun_path ? 0 : -1;
}

/* The runroot as the command line will understand it: what Enter handed on,
 * else --runroot, else the default of store.DefaultOptions. */
static int open_runroot(int argc, char **argv)
{
	char buf[4096];
	const char *path = getenv("_BALENA_USERNS_DIR");
	int i, fd;
	struct stat st;

	for (i = 1; !path && i < argc && strcmp(argv[i], "--") != 0; i++) {
		if (strncmp(argv[i], "--runroot=", 10) == 0)
			path = argv[i] + 10;
		else if (strcmp(argv[i], "--runroot") == 0 && i + 1 < argc)
			path = argv[i + 1];
	}
	if (!path) {
		const char *run = getenv("XDG_RUNTIME_DIR");
		if (run && *run && access(run, W_OK) == 0)
			snprintf(buf, sizeof buf, "%s/balena", run);
		else
			snprintf(buf, sizeof buf, "/tmp/balena-run-%d", (int)getuid());
		path = buf;
	}
	fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	/* Whoever owns the folder decides which namespace we enter. */
	if (fstat(fd, &st) < 0 || st.st_uid != geteuid()) {
		close(fd);
		return -1;
	}
	return fd;
}

/* One byte and two descriptors: the user and the mount namespace. */
static int receive(int conn, int fds[2])
{
	char byte, ctl[CMSG_SPACE(2 * sizeof(int))];
	struct iovec iov = { &byte, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = ctl, .msg_controllen = sizeof ctl };
	struct cmsghdr *c;

	if (recvmsg(conn, &m, MSG_CMSG_CLOEXEC) != 1)
		return -1;
	c = CMSG_FIRSTHDR(&m);
	if (!c || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(2 * sizeof(int)))
		return -1;
	memcpy(fds, CMSG_DATA(c), 2 * sizeof(int));
	return 0;
}

static void join(int argc, char **argv)
{
	struct sockaddr_un a;
	struct ucred peer;
	socklen_t len = sizeof peer;
	char cwd[4096];
	int fds[2] = { -1, -1 }, conn = -1, dir, uid = getuid(), gid = getgid();

	dir = open_runroot(argc, argv);
	if (dir < 0)
		return;
	conn = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (conn < 0 || address(dir, &a) < 0 || connect(conn, (struct sockaddr *)&a, sizeof a) < 0)
		goto out;
	if (getsockopt(conn, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 || (int)peer.uid != uid)
		goto out;
	if (receive(conn, fds) < 0)
		goto out;
	if (!getcwd(cwd, sizeof cwd))
		strcpy(cwd, "/");
	if (setns(fds[0], CLONE_NEWUSER) < 0)
		goto out;
	if (setns(fds[1], CLONE_NEWNS) < 0 || setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0) {
		fprintf(stderr, "balena: joining the user namespace: %s\n", strerror(errno));
		_exit(125);
	}
	if (chdir(cwd) < 0 && chdir("/") < 0)
		_exit(125);
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	balena_userns_uid = uid;
	balena_userns_gid = gid;
	balena_userns_conn = conn;
	conn = -1;
out:
	if (fds[0] >= 0)
		close(fds[0]);
	if (fds[1] >= 0)
		close(fds[1]);
	if (conn >= 0)
		close(conn);
	close(dir);
}

static int send_namespaces(int conn, int user, int mnt)
{
	char byte = 0, ctl[CMSG_SPACE(2 * sizeof(int))] = { 0 };
	struct iovec iov = { &byte, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = ctl, .msg_controllen = sizeof ctl };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	int fds[2] = { user, mnt };

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof fds);
	memcpy(CMSG_DATA(c), fds, sizeof fds);
	return sendmsg(conn, &m, MSG_NOSIGNAL) == 1 ? 0 : -1;
}

/* The stage balena-userns. Descriptor 3 is a socket to Enter: it sends a byte
 * once the ID maps are written, and gets one back once we listen. Descriptor 4
 * is the runroot. */
static void hold(void)
{
	static struct pollfd p[65536];
	struct rlimit nofile;
	struct sockaddr_un a;
	struct ucred peer;
	socklen_t len;
	char byte;
	int user, mnt, n = 1, i, conn, null;

	if (read(3, &byte, 1) != 1)
		_exit(1);
	setsid();
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	prctl(PR_SET_NAME, "balena-userns", 0, 0, 0);
	if (getrlimit(RLIMIT_NOFILE, &nofile) == 0) {
		nofile.rlim_cur = nofile.rlim_max;
		setrlimit(RLIMIT_NOFILE, &nofile);
	}
	user = open("/proc/self/ns/user", O_RDONLY | O_CLOEXEC);
	mnt = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
	p[0].fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	p[0].events = POLLIN;
	if (user < 0 || mnt < 0 || p[0].fd < 0 || address(4, &a) < 0)
		_exit(1);
	umask(0077);
	if (unlinkat(4, SOCKET_NAME, 0) < 0 && errno != ENOENT)
		_exit(1);
	if (bind(p[0].fd, (struct sockaddr *)&a, sizeof a) < 0 || listen(p[0].fd, 512) < 0)
		_exit(1);
	null = open("/dev/null", O_RDWR);
	if (null < 0 || chdir("/") < 0)
		_exit(1);
	for (i = 0; i < 3; i++)
		dup2(null, i);
	if (null > 2)
		close(null);
	if (write(3, "", 1) != 1)
		_exit(1);
	close(3);
	close(4);
	for (;;) {
		int ready = poll(p, n, n == 1 ? LINGER_MS : -1);
		if (ready < 0 && errno != EINTR)
			_exit(1);
		if (ready == 0 && n == 1)
			_exit(0); /* a connection still in the backlog is reset, and its command starts another holder */
		if (ready <= 0)
			continue;
		for (i = n - 1; i > 0; i--) {
			if (p[i].revents) {
				/* Clients never send: anything is the end of one. */
				close(p[i].fd);
				p[i] = p[--n];
			}
		}
		if (!(p[0].revents & POLLIN))
			continue;
		conn = accept4(p[0].fd, NULL, NULL, SOCK_CLOEXEC);
		if (conn < 0) {
			if (errno == EMFILE || errno == ENFILE)
				usleep(10000);
			continue;
		}
		len = sizeof peer;
		if (n == (int)(sizeof p / sizeof p[0]) ||
		    getsockopt(conn, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 || peer.uid != getuid() ||
		    send_namespaces(conn, user, mnt) < 0) {
			close(conn);
			continue;
		}
		p[n].fd = conn;
		p[n].events = POLLIN | POLLRDHUP;
		p[n].revents = 0;
		n++;
	}
}

#ifndef __GLIBC__
/*
 * The kernel puts the arguments right before the environment: argc,
 * argv[0..argc-1], NULL, environ. (On ARM, glibc's entry writes over argc.)
 */
static char **arguments(int *argc)
{
	char **end = environ - 1;

	for (*argc = 0; (intptr_t)end[-1 - *argc] != *argc; (*argc)++)
		;
	return end - *argc;
}
#endif

/* A constructor gets the arguments from glibc, but not from musl. */
__attribute__((constructor)) static void balena_userns(int argc, char **argv)
{
	const char *name;

	if (!environ)
		return;
#ifndef __GLIBC__
	argv = arguments(&argc);
#endif
	if (argc < 1 || !argv[0] || getenv("_LIBCONTAINER_INITPIPE"))
		return;
	name = strrchr(argv[0], '/');
	name = name ? name + 1 : argv[0];
	if (strcmp(name, "balena-userns") == 0) {
		if (getenv("_BALENA_USERNS_HOLD"))
			hold();
		return;
	}
	/* The other stages are started by a command that has joined already. */
	if (geteuid() != 0 && strncmp(name, "balena-", 7) != 0 && strcmp(name, "runc") != 0)
		join(argc, argv);
}
