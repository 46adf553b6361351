/* Runs a command and writes down what it took: peak memory in kB, processor
 * time in microseconds. Only wait4(2) tells, and only the parent.
 * usage: peak FILE PROGRAM ARGUMENT... */
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int count, char **words)
{
	struct rusage used;
	int status;
	pid_t child;
	FILE *file;

	if (count < 3)
		return 125;
	child = vfork();
	if (child < 0)
		return 125;
	if (child == 0) {
		execvp(words[2], words + 2);
		_exit(127);
	}
	if (wait4(child, &status, 0, &used) != child)
		return 125;
	file = fopen(words[1], "w");
	if (!file)
		return 125;
	fprintf(file, "%ld %lld\n", used.ru_maxrss,
		(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000LL +
		used.ru_utime.tv_usec + used.ru_stime.tv_usec);
	if (fclose(file))
		return 125;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 126;
}
