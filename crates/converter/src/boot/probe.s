# A boot sector that answers one question: does this accelerator run a guest's code as far as a 64-bit kernel goes?
# It enters long mode with paging and SSE on, computes with an XMM register, and writes 0x2a to QEMU's isa-debug-exit
# port, on which QEMU ends with exit code 0x2a * 2 + 1 = 85. Built with
#   as --64 -o probe.o probe.s && ld -Ttext 0x7c00 -o probe.elf probe.o && objcopy -O binary -j .text probe.elf probe.bin
.code16
.globl _start
_start:
 cli
 xorw %ax,%ax
 movw %ax,%ds
 movw %ax,%es
 movw %ax,%ss
 movw $0x7c00,%sp
 movl $0x1000,%edi
 movl %edi,%cr3
 xorl %eax,%eax
 movl $0xc00,%ecx
 cld
 rep stosl
 movl $0x2003,(0x1000)
 movl $0x3003,(0x2000)
 movl $0x83,(0x3000)
 movl %cr4,%eax
 orl $0x620,%eax
 movl %eax,%cr4
 movl $0xc0000080,%ecx
 rdmsr
 orl $0x100,%eax
 wrmsr
 movl %cr0,%eax
 andl $0xfffffffb,%eax
 orl $0x80000003,%eax
 movl %eax,%cr0
 lgdtl gdtr
 ljmpl $8,$long
.code64
long:
 movl $16,%eax
 movl %eax,%ds
 movl %eax,%ss
 movq $0x2a,%rax
 movq %rax,%xmm0
 paddq %xmm0,%xmm0
 movq %xmm0,%rcx
 cmpq $0x54,%rcx
 jne hang
 movw $0xf4,%dx
 outb %al,%dx
hang:
 hlt
 jmp hang
.balign 8
gdt:
 .quad 0
 .quad 0x00af9a000000ffff
 .quad 0x00cf92000000ffff
gdtr:
 .word 23
 .long gdt
.org 510
.word 0xaa55
