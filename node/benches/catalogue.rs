//! How long a list of Fedora's size takes to read into a catalogue, and how much memory.
//!
//!     cargo bench -p imirror --bench catalogue
//!
//! The list is made here: 60,000 packages with descriptions, what they provide and need, and files, in the lengths that Fedora's have.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use imirror::classify::Format;
use imirror::repos::catalogue::{Catalogue, Stock};
use imirror::repos::list::Form;
use imirror::repos::resolve::resolve;
use rustix::time::{ClockId, clock_gettime};

const PACKAGES: usize = 60_000;

fn main() -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    let (gz, zst) = (dir.path().join("primary.xml.gz"), dir.path().join("primary.xml.zst"));
    let mut encoder = flate2::write::GzEncoder::new(BufWriter::new(File::create(&gz)?), flate2::Compression::default());
    let expanded = write_primary(&mut encoder)?;
    encoder.finish()?.flush()?;
    let mut encoder = zstd::stream::write::Encoder::new(BufWriter::new(File::create(&zst)?), 3)?;
    write_primary(&mut encoder)?;
    encoder.finish()?.flush()?;
    println!("{PACKAGES} packages, {} MB of XML", expanded / 1_000_000);

    for list in [&gz, &zst] {
        let catalogue = list.with_extension("list");
        let (idle, start) = (start_of_peak()?, cpu());
        Catalogue::write(Form::Primary, File::open(list)?, &catalogue)?;
        let (seconds, peak) = (cpu() - start, peak()?.saturating_sub(idle));
        let length = |path: &Path| path.metadata().map(|metadata| metadata.len() / 1_000_000);
        let name = list.file_name().unwrap_or_default().display();
        println!(
            "{name}: {} MB read in {seconds:.2} s of one core, {:.1} MiB above idle; catalogue of {} MB",
            length(list)?,
            peak as f64 / 1024.0,
            length(&catalogue)?
        );
    }
    let start = cpu();
    let catalogue = Catalogue::open(&gz.with_extension("list"))?;
    println!("opened in {:.3} s", cpu() - start);
    let start = cpu();
    let found = resolve(&Stock(vec![&catalogue]), Format::Rpm, None, &["package-590*"]);
    println!(
        "{} packages for a pattern, {} needs not met, in {:.2} s",
        found.packages.len(),
        found.missing.len(),
        cpu() - start
    );
    Ok(())
}

/// What this process has computed, in seconds.
fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Forgets the most memory there was; returns what there is now, in KiB.
fn start_of_peak() -> io::Result<u64> {
    std::fs::write("/proc/self/clear_refs", "5")?;
    peak()
}

fn peak() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok()).ok_or_else(|| io::Error::other("no VmHWM"))
}

/// Returns its length.
fn write_primary(out: &mut impl Write) -> io::Result<u64> {
    let mut length = 0;
    let mut text = String::new();
    text.push_str(r#"<?xml version="1.0" encoding="UTF-8"?><metadata xmlns="http://linux.duke.edu/metadata/common" xmlns:rpm="http://linux.duke.edu/metadata/rpm" packages="60000">"#);
    for i in 0..PACKAGES {
        package(&mut text, i);
        out.write_all(text.as_bytes())?;
        length += text.len() as u64;
        text.clear();
    }
    out.write_all(b"</metadata>")?;
    Ok(length)
}

fn package(out: &mut String, i: usize) {
    let digest = blake3::hash(&i.to_le_bytes()).to_hex();
    let words =
        ["library", "for", "reading", "&amp;", "writing", "of", "files", "that", "programs", "in", "C++", "use"];
    let description: Vec<&str> = (0..60).map(|word| words[(i + word * word) % words.len()]).collect();
    let entry = |name: String, version: &str| format!("\n      <rpm:entry name=\"{name}\"{version}/>");
    let own = format!(" flags=\"EQ\" epoch=\"0\" ver=\"{}.{}~rc1\" rel=\"3.fc41\"", i % 20, i % 7);
    let provides: String = (0..8)
        .map(|n| entry(format!("lib{i}.so.{n}(VERS_{n}.0)(64bit)"), ""))
        .chain([entry(format!("package-{i}"), &own), entry(format!("package-{i}(x86-64)"), &own)])
        .collect();
    // Most need a few that are needed by all, and some others.
    let needs: String = (1..12)
        .map(|n| {
            let other = if n < 6 { n * 3 } else { (i * 31 + n * 7_919) % PACKAGES };
            entry(format!("lib{other}.so.{}(VERS_{0}.0)(64bit)", n % 8), "")
        })
        .chain([entry("rtld(GNU_HASH)".into(), ""), entry(format!("(package-{} or package-{})", i / 2, i / 3), "")])
        .collect();
    let files: String = (0..3).map(|n| format!("\n    <file>/usr/bin/program-{i}-{n}</file>")).collect();
    out.push_str(&format!(
        r#"
<package type="rpm">
  <name>package-{i}</name>
  <arch>x86_64</arch>
  <version epoch="0" ver="{}.{}~rc1" rel="3.fc41"/>
  <checksum type="sha256" pkgid="YES">{digest}</checksum>
  <summary>A package of number {i}</summary>
  <description>{}</description>
  <packager>Example Project</packager>
  <url>https://example.org/package-{i}</url>
  <time file="1727740800" build="1727740000"/>
  <size package="{}" installed="123456" archive="123999"/>
  <location href="Packages/p/package-{i}-{}.{}~rc1-3.fc41.x86_64.rpm"/>
  <format>
    <rpm:license>GPL-2.0-or-later</rpm:license>
    <rpm:vendor>Example Project</rpm:vendor>
    <rpm:group>Unspecified</rpm:group>
    <rpm:buildhost>builder.example.org</rpm:buildhost>
    <rpm:sourcerpm>package-{i}.src.rpm</rpm:sourcerpm>
    <rpm:header-range start="4504" end="99999"/>
    <rpm:provides>{provides}
    </rpm:provides>
    <rpm:requires>{needs}
    </rpm:requires>{files}
  </format>
</package>"#,
        i % 20,
        i % 7,
        description.join(" "),
        10_000 + i,
        i % 20,
        i % 7,
    ));
}
