//! The packet behind an XDP program's context, for dtm-common's parser. Read in place only: the helper that reads all of a
//! buffer is of kernel 5.18, and no header is outside of the first page.

use core::arch::asm;

use aya_ebpf::bindings::xdp_md;
use dtm_common::packet::Packet;

use crate::skb::load;

/// No header dtm reads starts further in; the verifier needs a bound.
const MAX_OFFSET: usize = 0x3ff;

/// A packet at an XDP hook, Ethernet header first.
pub(crate) struct XdpPacket(pub(crate) *mut xdp_md);

impl XdpPacket {
    /// Bytes there are.
    #[inline(always)]
    pub(crate) fn length(&self) -> u64 {
        // SAFETY: the context is valid for the whole run of the program; the kernel turns the two into pointers.
        unsafe { ((*self.0).data_end as usize - (*self.0).data as usize) as u64 }
    }

    /// Where the `bytes` at `offset` are, if they are there.
    #[inline(always)]
    fn place(&self, offset: usize, bytes: usize) -> Option<usize> {
        if offset > MAX_OFFSET {
            return None;
        }
        // SAFETY: as above.
        let (start, end) = unsafe { ((*self.0).data as usize + offset, (*self.0).data_end as usize) };
        (start + bytes <= end).then_some(start)
    }
}

impl Packet for XdpPacket {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let start = self.place(offset, N)?;
        // SAFETY: `place` has compared with the bound the verifier asks for.
        Some(unsafe { core::ptr::read_unaligned(start as *const [u8; N]) })
    }

    #[inline(always)]
    fn read_far<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.read(self.hide(offset as u32) as usize)
    }

    #[inline(always)]
    fn hide(&self, value: u32) -> u32 {
        let mut hidden = u64::from(value);
        // No interface has so many queues that the highest bit is set. What is added here is 0; the compiler must not know it
        // either, nor put it off until the value is used.
        // SAFETY: reads the fifth field of the context, which is valid for the whole run of the program.
        unsafe {
            asm!(
                "{zero} = *(u32 *)({context} + 16)",
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
        let start = self.place(offset, N * size_of::<u32>())?;
        // SAFETY: `place` has compared with the bound the verifier asks for.
        Some(core::array::from_fn(|number| unsafe {
            load(start + number * size_of::<u32>())
        }))
    }

    #[inline(always)]
    fn words_far<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        self.words(self.hide(offset as u32) as usize)
    }
}
