/* From power-on to machine.c in 64-bit mode, with all memory where it is; then system calls and traps. */

    .section .rom, "ax"
    .code16
begin:
    lgdtl %cs:(gdt_address - begin + 0xfe00)
    mov $1, %eax
    mov %eax, %cr0
    ljmpl $8, $protected
    .code32
protected:
    mov $16, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $rom, %esi
    mov $0x100000, %edi
    mov $ram_bytes, %ecx
    rep movsb
    xor %eax, %eax /* memory holds anything at power-on */
    mov $bss, %edi
    mov $bss_bytes, %ecx
    rep stosb
    movl $pages + 0x1003, pages /* 4 GiB in pages of 1 GiB */
    movl $0x00000083, pages + 0x1000
    movl $0x40000083, pages + 0x1008
    movl $0x80000083, pages + 0x1010
    movl $0xc0000083, pages + 0x1018
    mov $pages, %eax
    mov %eax, %cr3
    mov $0x40620, %eax /* PAE, OSFXSR, OSXMMEXCPT, OSXSAVE */
    mov %eax, %cr4
    mov $0xc0000080, %ecx
    mov $0x101, %eax /* long mode, syscall */
    xor %edx, %edx
    wrmsr
    mov $0x80000033, %eax /* paging, protection, a floating-point unit */
    mov %eax, %cr0
    ljmpl $24, $long
    .code64
long:
    mov $stack_end, %esp
    mov $machine, %eax
    jmp *%rax
    .p2align 3
gdt:
    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff
gdt_address:
    .word gdt_address - gdt - 1
    .long gdt
    .org 0x1f0 /* here a processor starts */
    .code16
    jmp begin
    .org 0x200

    .text
    .code64
    .globl run_program, system_call_entry, single_step, traps
run_program: /* on the stack that is given */
    mov %rdi, %rsp
    jmp _start

/* As Linux has it: a number in rax, six arguments, the fourth in r10; all but rax, rcx and r11 are kept. */
system_call_entry:
    mov %rsp, caller_stack
    mov $stack_end, %esp
    push %rcx
    push %r11
    push %rdi
    push %rsi
    push %rdx
    push %r8
    push %r9
    push %r10
    mov %r10, %rcx
    push %rax
    call system_call
    add $8, %rsp
    pop %r10
    pop %r9
    pop %r8
    pop %rdx
    pop %rsi
    pop %rdi
    pop %r11
    pop %rcx
    mov caller_stack, %rsp
    xor stepping, %r11d
    push %r11
    popfq
    jmp *%rcx

/* Counts the instruction that comes next if it is the library's. */
single_step:
    push %rax
    mov 8(%rsp), %rax
    sub code, %rax
    cmp code_bytes, %rax
    jae 1f
    push %rdx
    mov counts, %rdx
    incl (%rdx, %rax, 4)
    pop %rdx
1:  pop %rax
    iretq

    .p2align 4
traps: /* 32 entries of 16 bytes */
    .set vector, 0
    .rept 32
    .p2align 4
    mov $vector, %edi
    jmp trap
    .set vector, vector + 1
    .endr

    .globl stack_end, trap_stack_end
    .bss
    .p2align 12
pages:
    .skip 0x2000
    .skip 0x2000
stack_end:
    .skip 0x1000
trap_stack_end:
