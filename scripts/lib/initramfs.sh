# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=bash
# Builds the two initramfs images: the one that starts the test VM's host, and the one that is the guest. Source it
# after report.sh. FOLDER is the image's future root.

# initramfs_modules FOLDER KERNEL NAME...
# Copies kernel modules of KERNEL (a folder of scripts/fetch-kernel) with what they depend on to FOLDER/modules,
# decompressed, and appends their load order to FOLDER/modules/order. A name that starts with '?' may be absent.
initramfs_modules() {
  local folder=$1 kernel=$2 name release listing line file
  shift 2
  release=$(cat "$kernel/release")
  mkdir -p "$folder/modules"
  for name in "$@"; do
    listing=$(PATH=$PATH:/usr/sbin:/sbin modprobe -d "$kernel" -S "$release" --show-depends "${name#\?}" 2>&1) || {
      [[ $name == \?* ]] && continue
      die "kernel $release has no module $name: $listing"
    }
    while read -r line file _; do
      [[ $line == insmod ]] || continue
      name=${file##*/}
      name=${name%%.ko*}
      [[ ! -e $folder/modules/$name.ko ]] || continue
      case $file in
        *.xz) xz -dc "$file" ;;
        *.zst) zstd -qdc "$file" ;;
        *.gz) gzip -dc "$file" ;;
        *) cat "$file" ;;
      esac >"$folder/modules/$name.ko"
      printf '%s\n' "$name" >>"$folder/modules/order"
    done <<<"$listing"
  done
}

# initramfs_programs FOLDER PROGRAM...
# Copies programs from the machine, with the shared libraries that they need, to the same paths.
initramfs_programs() {
  local folder=$1 program path library
  shift
  for program in "$@"; do
    path=$(PATH=$PATH:/usr/sbin:/sbin command -v "$program") || die "no $program: run scripts/install-deps vm"
    install -D "$path" "$folder/bin/${path##*/}"
    while read -r library; do
      [[ -e $folder$library ]] || install -D "$library" "$folder$library"
    done < <(ldd "$path" 2>/dev/null | grep -oE '/[^ ]+' || true)
  done
}

# initramfs_busybox FOLDER: a static busybox with a link for every applet that it has.
initramfs_busybox() {
  local folder=$1 busybox applet
  busybox=$(command -v busybox) || die "no busybox: run scripts/install-deps vm"
  ! ldd "$busybox" >/dev/null 2>&1 || die "$busybox is not static: install busybox-static"
  mkdir -p "$folder"/{bin,dev,proc,sys,etc,run,tmp,root}
  cp "$busybox" "$folder/bin/busybox"
  for applet in $("$busybox" --list); do
    [[ $applet == busybox ]] || ln -sf busybox "$folder/bin/$applet"
  done
}

# initramfs_pack FOLDER FILE: appears whole or not at all.
initramfs_pack() {
  (cd "$1" && find . -print0 | LC_ALL=C sort -z | cpio --null -o -H newc -R 0:0 --quiet) >"$2.$$" || die "cpio failed"
  mv "$2.$$" "$2"
}

# initramfs_key FILE-OR-WORD...: what a cached image is named by, so that it is made anew when its ingredients change.
initramfs_key() {
  local ingredient
  for ingredient in "$@"; do
    if [[ -f $ingredient ]]; then cat "$ingredient"; else printf '%s\n' "$ingredient"; fi
  done | sha256sum | cut -c1-16
}
