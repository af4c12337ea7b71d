//! What keeps drops counted: the program at the tracepoint, and the map that says which program counts for it.
//!
//! A tracepoint's link cannot be given another program. The one it has calls the one in the map, which another process can
//! replace while drops go on being counted.

use std::os::fd::{AsFd as _, BorrowedFd};

use anyhow::{Context as _, anyhow};
use aya::{
    Btf, Ebpf,
    maps::{Map, MapData, ProgramArray},
    programs::BtfTracePoint,
};

use super::{
    held::Held,
    kernel::take,
    pins::{DROPS_LINK, Pins},
    sys,
    types::Types,
};

/// The map's name, and its one index.
const MAP: &str = "DROP_COUNTER";
const INDEX: u32 = 0;

/// The tracepoint, where programs are loaded for it.
const TRACEPOINT: &str = "kfree_skb";

/// Drops are counted as long as it is there.
pub(super) struct DropCounter {
    link: Held,
    /// The kernel empties such a map when nobody holds it.
    _program: ProgramArray<MapData>,
}

impl DropCounter {
    /// Sees to it that drops are counted: by the tracepoint that an earlier process has attached, where there is one, and
    /// unless `has_programs` by the program of this one. Into the maps of `former` none is counted from that moment on.
    fn start(
        ebpf: &mut Ebpf,
        types: &Types,
        pins: Option<&Pins>,
        has_programs: bool,
        former: Option<&Pins>,
    ) -> anyhow::Result<Self> {
        let mut program = ProgramArray::try_from(take(ebpf, MAP)?)?;
        let path = pins.map(|pins| pins.link(DROPS_LINK));
        let left = path.clone().and_then(|path| Held::open(path).ok());
        let link = match left {
            Some(link) if has_programs => link,
            left => {
                let btf = types.get()?;
                let counter = loaded(ebpf, "dtm_count_drop", btf)?.fd()?.try_clone()?;
                let link = match (left, path) {
                    (Some(link), _path) => link,
                    (None, path) => {
                        let caller = loaded(ebpf, "dtm_kfree_skb", btf)?;
                        let mut link = Held::new(sys::attach_tracepoint(caller.fd()?.as_fd())?)?;
                        if let Some(path) = path {
                            link.pin(path).context("pin the tracepoint of drops")?;
                        }
                        link
                    }
                };
                if let Some(former) = former
                    && let Err(error) = end(former)
                {
                    let error = format_args!("{error:#}");
                    tracing::warn!(error, "an earlier dtm goes on counting drops for a moment");
                }
                program.set(INDEX, &counter, 0)?;
                link
            }
        };
        Ok(Self {
            link,
            _program: program,
        })
    }

    /// What has the tracepoint's program attached.
    pub(super) fn link(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }

    /// Leaves it to whoever comes next, where it has a name.
    pub(super) fn keep(mut self) {
        self.link.keep();
    }

    /// Takes its name away: it ends with this process.
    pub(super) fn unpin(&mut self) {
        self.link.unpin();
    }
}

/// As [`DropCounter::start`]; where the kernel refuses, a warning says so.
pub(super) fn start(
    ebpf: &mut Ebpf,
    types: &Types,
    pins: Option<&Pins>,
    has_programs: bool,
    former: Option<&Pins>,
) -> Option<DropCounter> {
    DropCounter::start(ebpf, types, pins, has_programs, former)
        .inspect_err(|error| {
            let error = format_args!("{error:#}");
            tracing::warn!(
                error,
                "the tracepoint kfree_skb is refused: drops are not counted"
            );
        })
        .ok()
}

/// Has drops no longer counted into the maps of another run.
fn end(run: &Pins) -> anyhow::Result<()> {
    let map = MapData::from_pin(run.map(MAP)).context("open its map")?;
    ProgramArray::try_from(Map::ProgramArray(map))?
        .clear_index(&INDEX)
        .context("empty its map")
}

fn loaded<'a>(ebpf: &'a mut Ebpf, name: &str, btf: &Btf) -> anyhow::Result<&'a mut BtfTracePoint> {
    let program = ebpf
        .program_mut(name)
        .ok_or_else(|| anyhow!("the kernel side has no program {name}"))?;
    let program: &mut BtfTracePoint = program.try_into()?;
    program.load(TRACEPOINT, btf)?;
    Ok(program)
}
