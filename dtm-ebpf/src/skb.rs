//! The packet behind a program's context and behind a dropped `sk_buff`, for dtm-common's parser.

use core::{arch::asm, mem::MaybeUninit};

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_probe_read_kernel, bpf_skb_load_bytes},
};
use dtm_common::packet::Packet;

/// No header dtm reads starts further in; the verifier needs a bound.
const MAX_OFFSET: usize = 0x3ff;

/// A packet at a TC hook, Ethernet header first, or at a cgroup's, IP header first.
pub(crate) struct SkbPacket(pub(crate) *mut __sk_buff);

impl Packet for SkbPacket {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if offset > MAX_OFFSET {
            return None;
        }
        // SAFETY: the context is valid for the whole run of the program; the kernel turns the two into pointers.
        let (start, end) = unsafe { ((*self.0).data as usize + offset, (*self.0).data_end as usize) };
        if start + N <= end {
            // SAFETY: the comparison above is the bound the verifier asks for.
            return Some(unsafe { core::ptr::read_unaligned(start as *const [u8; N]) });
        }
        // The header is not in the linear part: rare, and the helper sees all of the buffer.
        self.read_far(offset)
    }

    #[inline(always)]
    fn hide(&self, value: u32) -> u32 {
        let mut hidden = u64::from(value);
        // The packet's length never has its highest bit set. What is added here is 0; the compiler must not know it either,
        // nor put it off until the value is used.
        // SAFETY: reads the first field of the context, which is valid for the whole run of the program.
        unsafe {
            asm!(
                "{zero} = *(u32 *)({context} + 0)",
                "{zero} >>= 31",
                "{zero} = -{zero}",
                "{hidden} ^= {zero}",
                zero = out(reg) _,
                context = in(reg) self.0,
                hidden = inout(reg) hidden,
                options(nostack)
            );
        }
        hidden as u32
    }

    #[inline(always)]
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        if offset > MAX_OFFSET {
            return None;
        }
        // SAFETY: the context is valid for the whole run of the program; the kernel turns the two into pointers.
        let (start, end) = unsafe { ((*self.0).data as usize + offset, (*self.0).data_end as usize) };
        if start + N * size_of::<u32>() > end {
            return self.words_far(offset);
        }
        // SAFETY: the comparison above is the bound the verifier asks for.
        Some(core::array::from_fn(|number| unsafe {
            load(start + number * size_of::<u32>())
        }))
    }

    #[inline(always)]
    fn words_far<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        let mut words = MaybeUninit::<[u32; N]>::uninit();
        // SAFETY: as in `read_far`.
        let result = unsafe {
            bpf_skb_load_bytes(
                self.0.cast(),
                offset as u32,
                words.as_mut_ptr().cast(),
                size_of::<[u32; N]>() as u32,
            )
        };
        // SAFETY: the helper succeeded, so all of it is written.
        (result == 0).then(|| unsafe { words.assume_init() }.map(u32::from_be))
    }

    #[inline(always)]
    fn read_far<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: `bytes` has room for N bytes and the helper fills all of them or fails.
        let result =
            unsafe { bpf_skb_load_bytes(self.0.cast(), offset as u32, bytes.as_mut_ptr().cast(), N as u32) };
        // SAFETY: the helper succeeded, so all N bytes are written.
        (result == 0).then(|| unsafe { bytes.assume_init() })
    }
}

/// The big-endian word at an address, which need not be aligned: the machines that dtm runs on do not mind, and the
/// compiler would put it together from bytes.
///
/// # Safety
///
/// The verifier must know that there are four bytes of a packet.
#[inline(always)]
pub(crate) unsafe fn load(address: usize) -> u32 {
    let word: u64;
    // SAFETY: the caller's promise; nothing but the register changes.
    unsafe {
        asm!(
            "{0} = *(u32 *)({1} + 0)",
            out(reg) word,
            in(reg) address,
            options(nostack, readonly, preserves_flags)
        );
    }
    u32::from_be(word as u32)
}

/// The linear part of a dropped buffer, from its network header on.
pub(crate) struct DroppedPacket {
    /// Address of the network header.
    pub(crate) network: *const u8,
    /// Bytes from there to the end of the linear part.
    pub(crate) length: usize,
}

impl Packet for DroppedPacket {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if offset > MAX_OFFSET || offset + N > self.length {
            return None;
        }
        // SAFETY: the helper checks the address itself and fails on a bad one.
        unsafe { read_kernel::<[u8; N]>(self.network.wrapping_add(offset)) }
    }
}

/// Reads a `T` from kernel memory.
///
/// # Safety
///
/// Every bit pattern must be a valid `T`.
#[inline(always)]
pub(crate) unsafe fn read_kernel<T>(address: *const u8) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: `value` has room for a `T`; the helper fills all of it or fails.
    let result =
        unsafe { bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, address.cast()) };
    // SAFETY: the helper succeeded, so all of it is written, and every pattern is valid.
    (result == 0).then(|| unsafe { value.assume_init() })
}

/// The field of type `T` at `offset` of the kernel's structure at `base`.
///
/// # Safety
///
/// `base` must be a pointer the verifier knows the type of, and `offset` that of a field of type `T` in it.
#[inline(always)]
pub(crate) unsafe fn field<T: Copy>(base: *const u8, offset: u32) -> T {
    // SAFETY: the caller's promise; a fault reads as zero.
    unsafe { core::ptr::read_volatile(base.add(offset as usize).cast::<T>()) }
}
