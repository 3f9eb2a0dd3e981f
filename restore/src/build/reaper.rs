//! What pid 1 of the tree's own PID namespace runs: it reaps whoever comes to it, and ends as the
//! root ends. Its end is the end of everybody else in the namespace (pid_namespaces(7)).

/// Machine code: with `rbx` pointing to four bytes for a status, waits for any child until it is the
/// one numbered `root`; then exits with its exit code, or 128 + n if signal n killed it.
pub(crate) fn code(root: u32) -> Vec<u8> {
    let mut code = vec![
        0xb8, 0x3d, 0x00, 0x00, 0x00, // next: mov eax, 61 (wait4)
        0x48, 0xc7, 0xc7, 0xff, 0xff, 0xff, 0xff, // mov rdi, -1
        0x48, 0x89, 0xde, // mov rsi, rbx
        0xba, 0x00, 0x00, 0x00, 0x40, // mov edx, __WALL
        0x4d, 0x31, 0xd2, // xor r10, r10
        0x0f, 0x05, // syscall
        0x3d, // cmp eax, root
    ];
    code.extend(root.to_le_bytes());
    code.extend([
        0x75, 0xe0, // jne next
        0x8b, 0x3b, // mov edi, [rbx]
        0x89, 0xf8, // mov eax, edi
        0x83, 0xe0, 0x7f, // and eax, 0x7f
        0x75, 0x09, // jnz killed
        0xc1, 0xef, 0x08, // shr edi, 8
        0x40, 0x0f, 0xb6, 0xff, // movzx edi, dil
        0xeb, 0x06, // jmp leave
        0x8d, 0xb8, 0x80, 0x00, 0x00, 0x00, // killed: lea edi, [rax + 128]
        0xb8, 0xe7, 0x00, 0x00, 0x00, // leave: mov eax, 231 (exit_group)
        0x0f, 0x05, // syscall
    ]);
    code
}
