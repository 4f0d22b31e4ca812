#!/usr/bin/env bash
# Makes what is given away: binaries with Kafka over TLS, settings, units, rules, dashboards, the book, licences, and an SBOM,
# as dist/meit-VERSION-TARGET.tar.gz with its SHA-256. From any folder: deploy/release.sh
#   cargo-cyclonedx  the SBOM (CycloneDX 1.5):  cargo install cargo-cyclonedx --locked
#   mdbook           the book as pages:         cargo install mdbook --locked; without it, as Markdown
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
command -v cargo-cyclonedx >/dev/null || { echo "cargo-cyclonedx is missing: cargo install cargo-cyclonedx --locked" >&2; exit 1; }

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
target=$(rustc -vV | sed -n 's/^host: //p')
name=meit-$version-$target
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
root=$stage/$name
mkdir -p "$root"/{bin,sbom,share} dist

cargo build --release --locked --workspace --bins --features service/tls
for program in meit meit-agent meit-node meit-bedside meit-pipeline meit-review; do
  install -m 0755 "target/release/$program" "$root/bin/"
  strip "$root/bin/$program"
done

# one SBOM a program, of the crates that it and its build scripts are made of; written beside the manifests and moved away, and
# without the folder in which it was built
cargo cyclonedx --quiet --format json --spec-version 1.5 --describe binaries --features service/tls --target "$target"
find . -name '*_bin.cdx.json' -not -path './target/*' | while read -r file; do
  program=$(basename "$file" _bin.cdx.json)
  [[ $program != meit* ]] || sed "s#path+file://$PWD#path+file:///meit#g" "$file" >"$root/sbom/$program.cdx.json"
  rm "$file"
done
[ "$(find "$root/sbom" -name 'meit*.cdx.json' | wc -l)" = 6 ] || { echo "not one SBOM for each of six programs" >&2; exit 1; }

cp -r config deploy/systemd deploy/prometheus dashboards "$root/share/"
cp -r model/bundle "$root/share/bundle"
mkdir -p "$root/share/recordings" && cp -r tests/data/ptbxl/. "$root/share/recordings/"
if command -v mdbook >/dev/null; then mdbook build docs --dest-dir "$root/share/book"; else cp -r docs "$root/share/book"; fi
cp README.md ARCHITECTURE.md CHANGELOG.md LICENSE NOTICE "$root/"

tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$(git log -1 --format=%ct)" -C "$stage" -czf "dist/$name.tar.gz" "$name"
(cd dist && sha256sum "$name.tar.gz" | tee "$name.tar.gz.sha256")
