//! Tiny static programs for Linux on x86, made of a header and a few instructions.

/// Where the kernel loads them.
const BASE: u32 = 0x0804_8000;

/// A 64-bit program that makes the system call `number` with `argument`, everything else zero, and ends with its errno.
pub fn call_64(number: u32, argument: u32) -> Vec<u8> {
    let code = [
        &[0xbf][..], // mov edi, argument
        &argument.to_le_bytes(),
        &[0xb8], // mov eax, number
        &number.to_le_bytes(),
        &[0x0f, 0x05],                    // syscall
        &[0x89, 0xc7, 0xf7, 0xdf],        // mov edi, eax; neg edi
        &[0xb8, 60, 0, 0, 0, 0x0f, 0x05], // exit
    ];
    elf_64(&code.concat())
}

/// The same as a 32-bit program.
pub fn call_32(number: u32, argument: u32) -> Vec<u8> {
    let code = [
        &[0xbb][..], // mov ebx, argument
        &argument.to_le_bytes(),
        &[0xb8], // mov eax, number
        &number.to_le_bytes(),
        &[0xcd, 0x80],                   // int 0x80
        &[0x89, 0xc3, 0xf7, 0xdb],       // mov ebx, eax; neg ebx
        &[0xb8, 1, 0, 0, 0, 0xcd, 0x80], // exit
    ];
    elf_32(&code.concat())
}

/// A 32-bit program that writes `text` to standard output and succeeds.
pub fn say_32(text: &str) -> Vec<u8> {
    let code_length = 5 * 4 + 2 + 5 + 2 + 2;
    let address = BASE + 84 + code_length;
    let code = [
        &[0xb8, 4, 0, 0, 0, 0xbb, 1, 0, 0, 0, 0xb9][..], // write(1,
        &address.to_le_bytes(),                          // text,
        &[0xba],
        &u32::try_from(text.len()).unwrap().to_le_bytes(), // length)
        &[0xcd, 0x80],
        &[0xb8, 1, 0, 0, 0, 0x31, 0xdb, 0xcd, 0x80], // exit(0)
    ];
    let code = code.concat();
    assert_eq!(code.len(), code_length as usize);
    elf_32(&[&code, text.as_bytes()].concat())
}

/// elf(5): one segment, which is the whole file.
fn elf_32(code: &[u8]) -> Vec<u8> {
    let length = u32::try_from(84 + code.len()).unwrap();
    let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0\x01\0\0\0".to_vec();
    for word in [BASE + 84, 52, 0, 0] {
        file.extend(word.to_le_bytes());
    }
    for half in [52u16, 32, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    for word in [1, 0, BASE, BASE, length, length, 5, 0x1000] {
        file.extend(word.to_le_bytes());
    }
    file.extend(code);
    file
}

fn elf_64(code: &[u8]) -> Vec<u8> {
    let length = u64::try_from(120 + code.len()).unwrap();
    let base = u64::from(BASE);
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    for word in [base + 120, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1u32.to_le_bytes());
    file.extend(5u32.to_le_bytes());
    for word in [0, base, base, length, length, 0x1000] {
        file.extend(word.to_le_bytes());
    }
    file.extend(code);
    file
}
