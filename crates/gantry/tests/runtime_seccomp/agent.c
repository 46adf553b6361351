/*
 * A seccomp agent: agent SOCKET ERROR CALL...
 *
 * Takes the descriptor of every container that is announced at SOCKET, says the message that
 * came with it in one line, and answers for the container: the calls with the numbers CALL
 * fail with ERROR, all others go on. Says "asked NUMBER" for every one that fails.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <signal.h>
#include <unistd.h>

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

/* The message up to its end, and the descriptor that came with it. */
static int take(int connection)
{
	static char message[65536];
	char control[CMSG_SPACE(4 * sizeof(int))];
	size_t length = 0;
	int listener = -1;

	for (;;) {
		struct iovec part = { message + length, sizeof(message) - 1 - length };
		struct msghdr header = {
			.msg_iov = &part,
			.msg_iovlen = 1,
			.msg_control = control,
			.msg_controllen = sizeof(control),
		};
		ssize_t got = recvmsg(connection, &header, MSG_CMSG_CLOEXEC);
		struct cmsghdr *ancillary;

		if (got < 0)
			fail("recvmsg");
		ancillary = CMSG_FIRSTHDR(&header);
		if (ancillary != NULL && ancillary->cmsg_type == SCM_RIGHTS) {
			if (ancillary->cmsg_len != CMSG_LEN(sizeof(int)) || listener >= 0) {
				fprintf(stderr, "more than one descriptor\n");
				exit(1);
			}
			memcpy(&listener, CMSG_DATA(ancillary), sizeof(int));
		}
		if (got == 0)
			break;
		length += (size_t)got;
	}
	message[length] = 0;
	printf("%s\n", message);
	fflush(stdout);
	return listener;
}

static void answer(int listener, int error, char **calls)
{
	for (;;) {
		struct pollfd ready = { .fd = listener, .events = POLLIN };
		struct seccomp_notif asked;
		struct seccomp_notif_resp answer;
		char **call;

		if (poll(&ready, 1, -1) < 0)
			fail("poll");
		if (ready.revents & POLLHUP)
			return;
		memset(&asked, 0, sizeof(asked));
		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &asked) < 0) {
			if (errno == ENOENT || errno == EINTR)
				continue;
			fail("receive");
		}
		memset(&answer, 0, sizeof(answer));
		answer.id = asked.id;
		answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
		for (call = calls; *call != NULL; call++) {
			if (atoi(*call) == asked.data.nr) {
				answer.flags = 0;
				answer.error = -error;
				printf("asked %d\n", asked.data.nr);
				fflush(stdout);
			}
		}
		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer) < 0 && errno != ENOENT)
			fail("send");
	}
}

int main(int count, char **words)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int server, connection;

	if (count < 3) {
		fprintf(stderr, "usage: agent SOCKET ERROR CALL...\n");
		return 1;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGCHLD, SIG_IGN);
	server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	strncpy(address.sun_path, words[1], sizeof(address.sun_path) - 1);
	if (bind(server, (struct sockaddr *)&address, sizeof(address)) < 0)
		fail("bind");
	if (listen(server, 16) < 0)
		fail("listen");
	printf("ready\n");
	fflush(stdout);
	while ((connection = accept(server, NULL, NULL)) >= 0) {
		if (fork() == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			int listener = take(connection);

			if (listener < 0) {
				fprintf(stderr, "no descriptor\n");
				return 1;
			}
			answer(listener, atoi(words[2]), words + 3);
			return 0;
		}
		close(connection);
	}
	fail("accept");
}
