//! Which device files a member may open: everything but the GPUs that were not granted.
//!
//! Comes in: minors of the granted GPUs. Goes out: guards, as lines for the v1 controller and as a program that the
//! kernel asks for v2. Pure. The rules name numbers, not files: a device file that a job makes itself is guarded too.

use serde::{Deserialize, Serialize};

/// Character devices of NVIDIA's driver.
const NVIDIA_MAJOR: u32 = 195;
/// Minors of GPUs; those above are the control devices, which every CUDA process needs.
const LAST_GPU_MINOR: u32 = 253;
/// The v1 controller keeps a list: only so many GPUs of a node are listed there.
const LAST_LISTED_MINOR: u32 = 63;

/// A range of character devices of which only some may be opened.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct Guard {
    pub(crate) major: u32,
    pub(crate) last_minor: u32,
    /// Rising.
    pub(crate) allowed: Vec<u32>,
}

/// The guards of a member with these GPUs.
pub(crate) fn guards(minors: &[u32]) -> Vec<Guard> {
    let mut allowed = minors.to_vec();
    allowed.sort_unstable();
    allowed.dedup();
    vec![Guard { major: NVIDIA_MAJOR, last_minor: LAST_GPU_MINOR, allowed }]
}

/// Lines for `devices.deny`.
pub(crate) fn denied_lines(guards: &[Guard]) -> Vec<String> {
    let lines = guards.iter().flat_map(|guard| {
        let minors = (0..=guard.last_minor.min(LAST_LISTED_MINOR)).filter(|minor| !guard.allowed.contains(minor));
        minors.map(|minor| format!("c {}:{minor} rwm", guard.major))
    });
    lines.collect()
}

/// One instruction of the kernel's virtual machine: code, registers (source in the high half), jump, immediate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Instruction {
    pub(crate) code: u8,
    pub(crate) registers: u8,
    pub(crate) jump: i16,
    pub(crate) immediate: i32,
}

/// `*(u32 *)(src + off)` into dst.
const LOAD_WORD: u8 = 0x61;
/// dst &= immediate, 32 bits.
const AND: u8 = 0x54;
/// dst = immediate, 64 bits.
const MOVE: u8 = 0xb7;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_IF_NOT_EQUAL: u8 = 0x55;
const JUMP_IF_GREATER: u8 = 0x25;
const EXIT: u8 = 0x95;
/// BPF_DEVCG_DEV_CHAR.
const CHARACTER: i32 = 2;
/// Registers: the result, the kernel's argument, and what is loaded from it.
const RESULT: u8 = 0;
const ARGUMENT: u8 = 1;
const TYPE: u8 = 2;
const MAJOR: u8 = 3;
const MINOR: u8 = 4;

fn op(code: u8, dst: u8, src: u8, jump: i16, immediate: u32) -> Instruction {
    Instruction { code, registers: dst | src << 4, jump, immediate: immediate.cast_signed() }
}

/// The program: 1 lets a device be opened, 0 does not. Its argument is (access << 16 | type, major, minor).
pub(crate) fn program(guards: &[Guard]) -> Vec<Instruction> {
    let mut code = vec![
        op(LOAD_WORD, TYPE, ARGUMENT, 0, 0),
        op(AND, TYPE, 0, 0, 0xffff),
        op(LOAD_WORD, MAJOR, ARGUMENT, 4, 0),
        op(LOAD_WORD, MINOR, ARGUMENT, 8, 0),
        op(MOVE, RESULT, 0, 0, 1),
        op(JUMP_IF_EQUAL, TYPE, 0, 1, CHARACTER.cast_unsigned()),
        op(EXIT, 0, 0, 0, 0),
    ];
    for guard in guards {
        let allowed = i16::try_from(guard.allowed.len()).unwrap_or(i16::MAX - 8).min(i16::MAX - 8);
        // Past this guard: its two tests, one test per allowed minor, the denial.
        code.push(op(JUMP_IF_NOT_EQUAL, MAJOR, 0, allowed + 3, guard.major));
        code.push(op(JUMP_IF_GREATER, MINOR, 0, allowed + 2, guard.last_minor));
        for (number, minor) in guard.allowed.iter().take(allowed.unsigned_abs().into()).enumerate() {
            let left = allowed - i16::try_from(number).expect("fewer than allowed");
            code.push(op(JUMP_IF_EQUAL, MINOR, 0, left + 1, *minor));
        }
        code.push(op(MOVE, RESULT, 0, 0, 0));
        code.push(op(EXIT, 0, 0, 0, 0));
    }
    code.push(op(EXIT, 0, 0, 0, 0));
    code
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the kernel's machine would answer.
    fn run(program: &[Instruction], device: [u32; 3]) -> u64 {
        let mut registers = [0_u64; 11];
        let mut at = 0_usize;
        loop {
            let Instruction { code, registers: both, jump, immediate } = program[at];
            let (dst, value) = ((both & 0xf) as usize, u64::from(immediate.cast_unsigned()));
            at += 1;
            let taken = match code {
                LOAD_WORD => {
                    registers[dst] = u64::from(device[usize::try_from(jump / 4).expect("an offset")]);
                    false
                }
                AND => {
                    registers[dst] &= value;
                    false
                }
                MOVE => {
                    registers[dst] = value;
                    false
                }
                JUMP_IF_EQUAL => registers[dst] == value,
                JUMP_IF_NOT_EQUAL => registers[dst] != value,
                JUMP_IF_GREATER => registers[dst] > value,
                EXIT => return registers[0],
                other => panic!("no such instruction: {other:#x}"),
            };
            if taken {
                at += usize::try_from(jump).expect("forward only");
            }
        }
    }

    proptest! {
        #[test]
        fn the_program_denies_what_the_rules_deny(
            minors in prop::collection::vec(0_u32..12, 0..6),
            kind in 1_u32..3, access in 0_u32..8,
            major in prop::sample::select(vec![1_u32, 194, 195, 196, 235]),
            minor in prop::sample::select(vec![0_u32, 1, 2, 3, 4, 5, 6, 7, 8, 11, 64, 253, 254, 255]),
        ) {
            let guards = guards(&minors);
            let is_gpu = kind == 2 && major == 195 && minor <= 253;
            let want = !is_gpu || minors.contains(&minor);
            prop_assert_eq!(run(&program(&guards), [access << 16 | kind, major, minor]) == 1, want);
            let listed = denied_lines(&guards).contains(&format!("c {major}:{minor} rwm"));
            prop_assert_eq!(listed && kind == 2, !want && minor <= LAST_LISTED_MINOR);
        }
    }
}
