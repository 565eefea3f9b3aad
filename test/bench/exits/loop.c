/*
 * The loop a VMM in C would have around KVM_RUN: the yardstick for ours. It reads guest memory and registers from a
 * file, then for each line "N" on standard input runs N exits and answers with the nanoseconds of processor time and of
 * real time they took.
 *
 * File: u32 bytes of memory, u32 exit reason that counts, struct kvm_regs, struct kvm_sregs, memory.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

struct header {
	uint32_t bytes;
	uint32_t reason;
	struct kvm_regs regs;
	struct kvm_sregs sregs;
};

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void read_all(int fd, void *to, size_t size)
{
	for (size_t done = 0; done < size;) {
		ssize_t part = read(fd, (char *)to + done, size - done);
		if (part <= 0)
			fail("read");
		done += part;
	}
}

static uint64_t now(clockid_t clock)
{
	struct timespec time;
	clock_gettime(clock, &time);
	return time.tv_sec * 1000000000ull + time.tv_nsec;
}

/* What the devices would do: enough for the compiler not to leave it out. */
static volatile uint32_t device;

static void handle(struct kvm_run *run)
{
	switch (run->exit_reason) {
	case KVM_EXIT_IO: {
		uint32_t *data = (uint32_t *)((char *)run + run->io.data_offset);
		if (run->io.direction == KVM_EXIT_IO_OUT)
			device = *data;
		else
			*data = device;
		break;
	}
	case KVM_EXIT_MMIO:
		if (run->mmio.is_write)
			memcpy((void *)&device, run->mmio.data, 4);
		else
			memcpy(run->mmio.data, (void *)&device, 4);
		break;
	}
}

static void set_cpuid(int kvm, int vcpu)
{
	enum { ENTRIES = 256 };
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof *cpuid + ENTRIES * sizeof cpuid->entries[0]);
	cpuid->nent = ENTRIES;
	if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid) < 0 || ioctl(vcpu, KVM_SET_CPUID2, cpuid) < 0)
		fail("CPUID");
	free(cpuid);
}

int main(int argc, char **argv)
{
	int file = open(argc > 1 ? argv[1] : "", O_RDONLY);
	int kvm = open("/dev/kvm", O_RDWR);
	struct header header;
	if (file < 0 || kvm < 0)
		fail("open");
	read_all(file, &header, sizeof header);
	void *memory = mmap(0, header.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		fail("mmap");
	read_all(file, memory, header.bytes);
	int vm = ioctl(kvm, KVM_CREATE_VM, 0);
	struct kvm_userspace_memory_region region = {
		.memory_size = header.bytes,
		.userspace_addr = (uintptr_t)memory,
	};
	if (vm < 0 || ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		fail("VM");
	int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	int size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	struct kvm_run *run = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (vcpu < 0 || run == MAP_FAILED)
		fail("vCPU");
	set_cpuid(kvm, vcpu);
	if (ioctl(vcpu, KVM_SET_SREGS, &header.sregs) < 0 || ioctl(vcpu, KVM_SET_REGS, &header.regs) < 0)
		fail("registers");
	for (unsigned long count; scanf("%lu", &count) == 1;) {
		uint64_t real = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
		for (unsigned long i = 0; i < count; i++) {
			if (ioctl(vcpu, KVM_RUN, 0) < 0)
				fail("KVM_RUN");
			if (run->exit_reason != header.reason) {
				fprintf(stderr, "exit reason %u\n", run->exit_reason);
				return 1;
			}
			handle(run);
		}
		cpu = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
		real = now(CLOCK_MONOTONIC) - real;
		printf("%llu %llu\n", (unsigned long long)cpu, (unsigned long long)real);
		fflush(stdout);
	}
	return 0;
}
