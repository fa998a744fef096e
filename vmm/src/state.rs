//! A vCPU's whole KVM state: saved in the pause, turned into bytes and into canonical state after it.

use crate::failure::{Call, VmFailure};
use kvm_bindings::{
    Msrs, kvm_debugregs, kvm_dtable, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{SyncReg, VcpuFd};
use pageswarm_machine::CpuState;
use pageswarm_machine::bytes::{BytesError, Reader};
use pageswarm_machine::cpu::{RFLAGS_RESUME, Segment, Table};

const VERSION: u8 = 1;
const XSAVE_FCW: usize = 0;
const XSAVE_MXCSR: usize = 24;
const XSAVE_XMM: usize = 160;
const XSAVE_BITMAP: usize = 512;
const XSAVE_BITMAP_SSE: u8 = 2;
/// x87 control word after FNINIT.
const FCW_START: [u8; 2] = [0x7f, 0x03];
/// Model-specific registers worth keeping where this host has them: those that a ring-3 guest's host or a later
/// kernel guest can have changed. The APIC's are not among them (there is none).
const MSRS_KEPT: [u32; 14] = [
    0x10,        // TSC
    0x174,       // SYSENTER_CS
    0x175,       // SYSENTER_ESP
    0x176,       // SYSENTER_EIP
    0x1a0,       // MISC_ENABLE
    0x277,       // PAT
    0x2ff,       // MTRR default type
    0xc000_0081, // STAR
    0xc000_0082, // LSTAR
    0xc000_0083, // CSTAR
    0xc000_0084, // SFMASK
    0xc000_0102, // KERNEL_GS_BASE
    0xc000_0103, // TSC_AUX
    0xda0,       // XSS
];

/// Kernel structures that are plain numbers without padding, so that any bytes of the right length are one.
///
/// # Safety
/// Implementors have no padding, no pointers and no invalid bit patterns.
unsafe trait Plain: Copy {}

// SAFETY: plain numbers, padded explicitly (linux/arch/x86/include/uapi/asm/kvm.h).
unsafe impl Plain for kvm_regs {}
// SAFETY: as above.
unsafe impl Plain for kvm_sregs {}
// SAFETY: as above.
unsafe impl Plain for kvm_xcrs {}
// SAFETY: as above.
unsafe impl Plain for kvm_debugregs {}
// SAFETY: as above.
unsafe impl Plain for kvm_mp_state {}
// SAFETY: as above.
unsafe impl Plain for kvm_vcpu_events {}

/// Everything KVM knows about the vCPU.
#[derive(Clone, Debug)]
pub(crate) struct KvmState {
    regs: kvm_regs,
    sregs: kvm_sregs,
    events: kvm_vcpu_events,
    mp_state: kvm_mp_state,
    xsave: [u8; 4096],
    xcrs: kvm_xcrs,
    debug: kvm_debugregs,
    msrs: Vec<kvm_msr_entry>,
}

/// Memory for saving state again and again without allocating.
#[derive(Debug)]
pub(crate) struct StateSaver {
    msrs: Msrs,
}

impl StateSaver {
    /// Finds out which of the kept registers this host has and takes back as it gave them; some it only shows.
    pub(crate) fn new(vcpu: &VcpuFd) -> Result<Self, VmFailure> {
        let has = |&index: &u32| {
            let probe = [kvm_msr_entry { index, ..Default::default() }];
            Msrs::from_entries(&probe).is_ok_and(|mut probe| {
                vcpu.get_msrs(&mut probe).is_ok_and(|read| read == 1)
                    && vcpu.set_msrs(&probe).is_ok_and(|written| written == 1)
            })
        };
        let entries: Vec<_> = MSRS_KEPT
            .iter()
            .filter(|index| has(index))
            .map(|&index| kvm_msr_entry { index, ..Default::default() })
            .collect();
        let msrs = Msrs::from_entries(&entries)
            .map_err(|_| VmFailure::System { call: Call::Save, errno: libc::ENOMEM })?;
        Ok(Self { msrs })
    }

    /// Saves the state of a vCPU that has no half-done port access: mp state first, events last, the order that
    /// Firecracker found to be right. General and system registers and events were put into the run page by the
    /// `KVM_RUN` before where `synced` says so.
    pub(crate) fn save(&mut self, vcpu: &VcpuFd, synced: Synced) -> Result<KvmState, kvm_ioctls::Error> {
        let mp_state = vcpu.get_mp_state()?;
        let (regs, sregs, events) = match synced {
            Synced::RunPage => {
                let page = vcpu.sync_regs();
                (page.regs, page.sregs, Some(page.events))
            }
            Synced::Not => (vcpu.get_regs()?, vcpu.get_sregs()?, None),
        };
        let xsave = xsave_to_bytes(&vcpu.get_xsave()?);
        let (xcrs, debug) = (vcpu.get_xcrs()?, vcpu.get_debug_regs()?);
        let read = vcpu.get_msrs(&mut self.msrs)?;
        let msrs = self.msrs.as_slice()[..read].to_vec();
        let events = match events {
            Some(events) => events,
            None => vcpu.get_vcpu_events()?,
        };
        Ok(KvmState { regs, sregs, events, mp_state, xsave, xcrs, debug, msrs })
    }
}

/// Whether `KVM_RUN` leaves registers in the run page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Synced {
    /// It does.
    RunPage,
    /// It does not; they are read one by one.
    Not,
}

impl Synced {
    /// Asks KVM to leave them there from now on, or stop.
    pub(crate) fn set(self, vcpu: &mut VcpuFd) {
        if self == Self::RunPage {
            vcpu.set_sync_valid_reg(SyncReg::Register);
            vcpu.set_sync_valid_reg(SyncReg::SystemRegister);
            vcpu.set_sync_valid_reg(SyncReg::VcpuEvents);
        }
    }

    /// Ends [`Self::set`].
    pub(crate) fn clear(vcpu: &mut VcpuFd) {
        vcpu.clear_sync_valid_reg(SyncReg::Register);
        vcpu.clear_sync_valid_reg(SyncReg::SystemRegister);
        vcpu.clear_sync_valid_reg(SyncReg::VcpuEvents);
    }
}

impl KvmState {
    /// The canonical part.
    pub(crate) fn canonical(&self) -> CpuState {
        let (r, s) = (&self.regs, &self.sregs);
        let mut state = CpuState::start(r.rip);
        state.general = [
            r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13,
            r.r14, r.r15,
        ];
        state.rflags = r.rflags & !RFLAGS_RESUME;
        state.segments = [&s.es, &s.cs, &s.ss, &s.ds, &s.fs, &s.gs].map(segment_from_kvm);
        state.task = segment_from_kvm(&s.tr);
        state.local_table = segment_from_kvm(&s.ldt);
        state.gdt = Table { base: s.gdt.base, limit: s.gdt.limit };
        state.idt = Table { base: s.idt.base, limit: s.idt.limit };
        state.control = [s.cr0, s.cr2, s.cr3, s.cr4];
        state.efer = s.efer;
        let sse = self.xsave[XSAVE_BITMAP] & XSAVE_BITMAP_SSE != 0;
        for (register, bytes) in state.xmm.iter_mut().zip(self.xsave[XSAVE_XMM..].chunks_exact(16)) {
            *register = if sse { bytes.try_into().expect("chunks of 16") } else { [0; 16] };
        }
        let mxcsr = &self.xsave[XSAVE_MXCSR..XSAVE_MXCSR + 4];
        state.mxcsr = u32::from_le_bytes(mxcsr.try_into().expect("four bytes"));
        state
    }

    /// The state of a fresh vCPU with `canonical` put into it.
    pub(crate) fn from_canonical(vcpu: &VcpuFd, canonical: &CpuState) -> Result<Self, VmFailure> {
        let failed = VmFailure::kvm(Call::Restore);
        let mut state = StateSaver::new(vcpu)?.save(vcpu, Synced::Not).map_err(&failed)?;
        // The fresh vCPU's own registers are right on this host.
        state.msrs.clear();
        state.put(canonical);
        Ok(state)
    }

    /// Puts the canonical part into the state.
    pub(crate) fn put(&mut self, canonical: &CpuState) {
        self.regs = general_to_kvm(canonical);
        let sregs = &mut self.sregs;
        let places =
            [&mut sregs.es, &mut sregs.cs, &mut sregs.ss, &mut sregs.ds, &mut sregs.fs, &mut sregs.gs];
        for (place, segment) in places.into_iter().zip(&canonical.segments) {
            *place = segment_to_kvm(segment);
        }
        sregs.tr = segment_to_kvm(&canonical.task);
        sregs.ldt = segment_to_kvm(&canonical.local_table);
        sregs.gdt = kvm_dtable { base: canonical.gdt.base, limit: canonical.gdt.limit, padding: [0; 3] };
        sregs.idt = kvm_dtable { base: canonical.idt.base, limit: canonical.idt.limit, padding: [0; 3] };
        [sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4] = canonical.control;
        sregs.efer = canonical.efer;
        self.put_sse(canonical);
    }

    /// Puts the SSE registers into the state, and x87 as it is after FNINIT.
    fn put_sse(&mut self, canonical: &CpuState) {
        self.xsave[XSAVE_FCW..XSAVE_FCW + 2].copy_from_slice(&FCW_START);
        self.xsave[XSAVE_MXCSR..XSAVE_MXCSR + 4].copy_from_slice(&canonical.mxcsr.to_le_bytes());
        for (bytes, register) in self.xsave[XSAVE_XMM..].chunks_exact_mut(16).zip(&canonical.xmm) {
            bytes.copy_from_slice(register);
        }
        self.xsave[XSAVE_BITMAP] |= 3;
    }

    /// Puts the registers that a program changes into a vCPU that was restored before.
    pub(crate) fn restore_registers(&self, vcpu: &VcpuFd) -> Result<(), VmFailure> {
        let failed = VmFailure::kvm(Call::Restore);
        vcpu.set_regs(&self.regs).map_err(&failed)?;
        vcpu.set_sregs(&self.sregs).map_err(&failed)?;
        let xsave = xsave_from_bytes(&self.xsave);
        // SAFETY: as in `restore`.
        unsafe { vcpu.set_xsave(&xsave) }.map_err(&failed)
    }

    /// Puts the state into a vCPU whose features are set, in Firecracker's order (`LAPIC` does not exist here).
    pub(crate) fn restore(&self, vcpu: &VcpuFd) -> Result<(), VmFailure> {
        let failed = VmFailure::kvm(Call::Restore);
        vcpu.set_mp_state(self.mp_state).map_err(&failed)?;
        vcpu.set_regs(&self.regs).map_err(&failed)?;
        vcpu.set_sregs(&self.sregs).map_err(&failed)?;
        let xsave = xsave_from_bytes(&self.xsave);
        // SAFETY: without dynamically enabled features, which this VMM never enables, KVM reads these 4096 bytes only.
        unsafe { vcpu.set_xsave(&xsave) }.map_err(&failed)?;
        vcpu.set_xcrs(&self.xcrs).map_err(&failed)?;
        vcpu.set_debug_regs(&self.debug).map_err(&failed)?;
        for entry in &self.msrs {
            let index = entry.index;
            let one = Msrs::from_entries(&[*entry]).map_err(|_| VmFailure::MsrRefused { index })?;
            if vcpu.set_msrs(&one).map_err(&failed)? != 1 {
                return Err(VmFailure::MsrRefused { index });
            }
        }
        vcpu.set_vcpu_events(&self.events).map_err(&failed)
    }

    /// The attachment's bytes: for a host of the same kind only.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put(&mut out, plain_bytes(&self.regs));
        put(&mut out, plain_bytes(&self.sregs));
        put(&mut out, plain_bytes(&self.events));
        put(&mut out, plain_bytes(&self.mp_state));
        put(&mut out, plain_bytes(&self.xcrs));
        put(&mut out, plain_bytes(&self.debug));
        put(&mut out, &self.xsave);
        out.push(u8::try_from(self.msrs.len()).expect("only kept registers are saved"));
        for entry in &self.msrs {
            out.extend(entry.index.to_le_bytes());
            out.extend(entry.data.to_le_bytes());
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BytesError> {
        let mut reader = Reader::new(bytes);
        let found = reader.u8()?;
        if found != VERSION {
            return Err(BytesError::Version { found });
        }
        let (regs, sregs) = (plain(&mut reader)?, plain(&mut reader)?);
        let (events, mp_state) = (plain(&mut reader)?, plain(&mut reader)?);
        let (xcrs, debug) = (plain(&mut reader)?, plain(&mut reader)?);
        if reader.u16()? != 4096 {
            return Err(reader.impossible());
        }
        let xsave = reader.array()?;
        let mut msrs = Vec::new();
        for _ in 0..reader.u8()? {
            msrs.push(kvm_msr_entry { index: reader.u32()?, data: reader.u64()?, ..Default::default() });
        }
        reader.finish()?;
        Ok(Self { regs, sregs, events, mp_state, xsave, xcrs, debug, msrs })
    }
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(u16::try_from(bytes.len()).expect("kernel structures are small").to_le_bytes());
    out.extend(bytes);
}

fn plain_bytes<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: `Plain` promises initialised bytes without padding; the borrow keeps the value alive.
    unsafe { std::slice::from_raw_parts((&raw const *value).cast(), size_of::<T>()) }
}

fn plain<T: Plain>(reader: &mut Reader<'_>) -> Result<T, BytesError> {
    if usize::from(reader.u16()?) != size_of::<T>() {
        return Err(reader.impossible());
    }
    let bytes = reader.take(size_of::<T>())?;
    // SAFETY: `Plain` promises that any bytes of this length are a value; unaligned reads are allowed.
    Ok(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

fn xsave_to_bytes(xsave: &kvm_xsave) -> [u8; 4096] {
    let mut bytes = [0; 4096];
    for (place, word) in bytes.chunks_exact_mut(4).zip(&xsave.region) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn xsave_from_bytes(bytes: &[u8; 4096]) -> kvm_xsave {
    let mut xsave = kvm_xsave::default();
    for (word, place) in xsave.region.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_le_bytes(place.try_into().expect("chunks of 4"));
    }
    xsave
}

fn general_to_kvm(canonical: &CpuState) -> kvm_regs {
    let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = canonical.general;
    let (rip, rflags) = (canonical.rip, canonical.rflags);
    kvm_regs { rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags }
}

fn segment_from_kvm(segment: &kvm_segment) -> Segment {
    let bit = |value: u8, shift: u32| u16::from(value & 1) << shift;
    let absent = segment.unusable != 0 || segment.present == 0;
    if absent {
        // Its hidden part means nothing and differs between processors.
        return Segment { selector: segment.selector, attributes: 0x100, ..Segment::default() };
    }
    let attributes = u16::from(segment.type_ & 15)
        | bit(segment.s, 4)
        | u16::from(segment.dpl & 3) << 5
        | bit(segment.present, 7)
        | bit(segment.avl, 12)
        | bit(segment.l, 13)
        | bit(segment.db, 14)
        | bit(segment.g, 15);
    Segment { selector: segment.selector, base: segment.base, limit: segment.limit, attributes }
}

fn segment_to_kvm(segment: &Segment) -> kvm_segment {
    let bits = |shift: u32, mask: u16| (segment.attributes >> shift & mask).to_le_bytes()[0];
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: bits(0, 15),
        s: bits(4, 1),
        dpl: bits(5, 3),
        present: bits(7, 1),
        avl: bits(12, 1),
        l: bits(13, 1),
        db: bits(14, 1),
        g: bits(15, 1),
        unusable: bits(8, 1),
        padding: 0,
    }
}

#[cfg(test)]
mod tests {
    //! Goal: attachments come from other nodes, and no bytes of theirs panic or are read as what they do not say.

    use super::*;

    fn attachment() -> Vec<u8> {
        let entry = |index| kvm_msr_entry { index, data: u64::from(index) << 7, ..Default::default() };
        KvmState {
            regs: kvm_regs { rip: 0x1000, ..Default::default() },
            sregs: kvm_sregs { cr3: 0x2000, ..Default::default() },
            events: kvm_vcpu_events::default(),
            mp_state: kvm_mp_state::default(),
            xsave: std::array::from_fn(|at| u8::try_from(at % 251).expect("below 251")),
            xcrs: kvm_xcrs::default(),
            debug: kvm_debugregs::default(),
            msrs: vec![entry(0xc000_0081), entry(0x2ff)],
        }
        .encode()
    }

    #[test]
    fn an_attachment_is_read_as_it_was_written_and_a_cut_one_is_refused() {
        let bytes = attachment();
        assert_eq!(KvmState::decode(&bytes).map(|state| state.encode()), Ok(bytes.clone()));
        assert!((0..bytes.len()).all(|end| KvmState::decode(&bytes[..end]).is_err()));
        assert!(KvmState::decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn no_changed_byte_of_an_attachment_panics_or_has_two_readings() {
        let mut bytes = attachment();
        for at in 0..bytes.len() {
            let kept = bytes[at];
            for byte in [0, 0x7f, 0xff, kept ^ 1, kept.wrapping_add(1)] {
                bytes[at] = byte;
                if let Ok(state) = KvmState::decode(&bytes) {
                    assert_eq!(state.encode(), bytes, "byte {at} as {byte}");
                }
            }
            bytes[at] = kept;
        }
    }
}
