/*
 * Compiles filters with libseccomp for comparison with those of Gantry's own compiler.
 *
 * Standard input holds commands, one a line, words separated by blanks:
 *
 *   filter DEFAULT               begins a filter; DEFAULT is a SECCOMP_RET_* value
 *   arch NAME                    adds an architecture besides the native one, x86_64
 *   rule ACTION NAME N (INDEX OPERATOR VALUE VALUE_TWO)*N
 *                                adds a rule for the call NAME; ACTION as DEFAULT
 *   end                          writes the program
 *   number ARCH NAME             writes the number of a call
 *
 * All numbers are decimal. For every `end` standard output gets the length of the program
 * in bytes (32 bits, native order) and the program; for every `number`, the number (32
 * bits). Anything that libseccomp refuses ends this process with a message, but for a rule
 * that contradicts another.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void fail(const char *what, int error)
{
	fprintf(stderr, "%s: %s\n", what, strerror(error));
	exit(1);
}

static void put(const void *bytes, size_t length)
{
	if (fwrite(bytes, 1, length, stdout) != length)
		fail("write", errno);
}

static void flush(void)
{
	if (fflush(stdout) != 0)
		fail("write", errno);
}

static uint64_t number(void)
{
	uint64_t value;

	if (scanf("%" SCNu64, &value) != 1)
		fail("a number is missing", EINVAL);
	return value;
}

static void word(char text[64])
{
	if (scanf("%63s", text) != 1)
		fail("a word is missing", EINVAL);
}

static uint32_t architecture(const char *name)
{
	uint32_t token = seccomp_arch_resolve_name(name);

	if (token == 0)
		fail(name, EINVAL);
	return token;
}

static void add_rule(scmp_filter_ctx filter)
{
	struct scmp_arg_cmp conditions[6];
	uint32_t action = (uint32_t)number();
	char name[64];
	unsigned int count, index;
	int call, result;

	word(name);
	count = (unsigned int)number();
	if (count > 6)
		fail("too many conditions", EINVAL);
	for (index = 0; index < count; index++) {
		conditions[index].arg = (unsigned int)number();
		conditions[index].op = (enum scmp_compare)number();
		conditions[index].datum_a = number();
		conditions[index].datum_b = number();
	}
	call = seccomp_syscall_resolve_name(name);
	if (call == __NR_SCMP_ERROR)
		return;
	result = seccomp_rule_add_array(filter, action, call, count, conditions);
	/*
	 * -EEXIST: libseccomp cannot bring the rule together with one that it has. The rule is
	 * left out, and the test compares such calls rule by rule.
	 */
	if (result != 0 && result != -EEXIST)
		fail(name, -result);
}

static void finish(scmp_filter_ctx filter)
{
	int file = memfd_create("program", MFD_CLOEXEC);
	static char program[1 << 20];
	ssize_t length;
	uint32_t size;
	int result;

	if (file < 0)
		fail("memfd_create", errno);
	result = seccomp_export_bpf(filter, file);
	if (result != 0)
		fail("export", -result);
	length = pread(file, program, sizeof(program), 0);
	if (length < 0)
		fail("pread", errno);
	close(file);
	size = (uint32_t)length;
	put(&size, sizeof(size));
	put(program, size);
	flush();
	seccomp_release(filter);
}

int main(void)
{
	scmp_filter_ctx filter = NULL;
	char command[64], name[64];
	int result;

	/* What libseccomp can do shall not depend on the kernel that this runs on. */
	result = seccomp_api_set(6);
	if (result != 0)
		fail("API level 6", -result);
	while (scanf("%63s", command) == 1) {
		if (strcmp(command, "filter") == 0) {
			filter = seccomp_init((uint32_t)number());
			if (filter == NULL)
				fail("filter", ENOMEM);
		} else if (strcmp(command, "arch") == 0) {
			word(name);
			result = seccomp_arch_add(filter, architecture(name));
			if (result != 0 && result != -EEXIST)
				fail(name, -result);
		} else if (strcmp(command, "rule") == 0) {
			add_rule(filter);
		} else if (strcmp(command, "end") == 0) {
			finish(filter);
			filter = NULL;
		} else if (strcmp(command, "number") == 0) {
			int32_t call;

			word(name);
			uint32_t token = architecture(name);
			word(name);
			call = seccomp_syscall_resolve_name_arch(token, name);
			put(&call, sizeof(call));
			flush();
		} else {
			fail(command, EINVAL);
		}
	}
	return 0;
}
