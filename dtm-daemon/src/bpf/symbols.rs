//! Where functions of the running kernel are.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader},
    path::Path,
};

/// The first address of each of these functions and the first after it, from a file like `/proc/kallsyms`; an empty
/// range for one the kernel does not have. The compiler's own variant of a function (`name.isra.0`) stands for it; what it has
/// put elsewhere as hardly ever needed (`name.cold`) does not.
///
/// # Errors
///
/// Where the file cannot be read, or hides the addresses (`kernel.kptr_restrict`).
pub(super) fn ranges<const N: usize>(path: &Path, names: [&str; N]) -> io::Result<[[u64; 2]; N]> {
    let mut ranges = [[0; 2]; N];
    let mut addresses = Vec::new();
    let mut reader = BufReader::new(File::open(path)?);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        let mut fields = text.split_ascii_whitespace();
        // `address type name [module]`
        let address = fields
            .next()
            .and_then(|address| u64::from_str_radix(address, 16).ok())
            .unwrap_or(0);
        if fields.next().is_some_and(|kind| kind.eq_ignore_ascii_case("t")) {
            addresses.push(address);
            if let Some(index) = fields
                .next()
                .map(|name| name.split_once('.').unwrap_or((name, "")))
                .filter(|(_name, variant)| !variant.contains("cold"))
                .and_then(|(name, _variant)| names.iter().position(|known| *known == name))
            {
                ranges[index] = [address, address];
            }
        }
        line.clear();
    }
    if addresses.iter().all(|address| *address == 0) {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "the addresses are hidden",
        ));
    }
    for [start, end] in ranges.iter_mut().filter(|range| range[0] != 0) {
        *end = addresses
            .iter()
            .copied()
            .filter(|address| address > start)
            .min()
            .unwrap_or(*start);
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges_of(kallsyms: &str) -> io::Result<[[u64; 2]; 2]> {
        let name = format!(
            "dtm-symbols-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        );
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, kallsyms)?;
        let ranges = ranges(&path, ["tcp_v4_rcv", "tcp_v6_rcv"]);
        std::fs::remove_file(&path)?;
        ranges
    }

    #[test]
    fn a_function_ends_where_the_next_begins() {
        let kallsyms = "00000a00 T before\n00000c00 t after\n00000b00 T tcp_v4_rcv\n00000b80 d data\n";
        assert_eq!(ranges_of(kallsyms).unwrap(), [[0xb00, 0xc00], [0, 0]]);
    }

    #[test]
    fn a_variant_stands_for_its_function() {
        let kallsyms = "00000b00 t tcp_v4_rcv.isra.0\n00000c00 t x\n00000d00 t tcp_v4_rcv.cold\n00000e00 t tcp_v6_rcv.isra.0.cold\n";
        assert_eq!(ranges_of(kallsyms).unwrap(), [[0xb00, 0xc00], [0, 0]]);
    }

    #[test]
    fn hidden_addresses_are_an_error() {
        assert!(ranges_of("0000000000000000 T tcp_v4_rcv\n0000000000000000 T tcp_v6_rcv\n").is_err());
    }
}
