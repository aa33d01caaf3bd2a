use super::*;

fn config(bytes: usize, pages: PagePolicy) -> MappingConfig {
    MappingConfig {
        bytes,
        pages,
        numa_node: None,
        prefault_threads: 2,
    }
}

#[test]
fn a_mapping_is_aligned_zeroed_and_writable_to_its_last_byte() {
    for pages in [PagePolicy::Prefer, PagePolicy::Plain] {
        let mapping = Mapping::new(&config(3 << 20, pages)).unwrap();
        assert_eq!(mapping.bytes(), 4 << 20);
        assert_eq!(mapping.base().as_ptr().align_offset(HUGE_PAGE_BYTES), 0);
        for offset in [0, 4096, mapping.bytes() - 1] {
            let byte = mapping.pointer_at(offset);
            // SAFETY: the byte is within the mapping, which nobody else knows.
            unsafe {
                assert_eq!(byte.read(), 0);
                byte.write(7);
                assert_eq!(byte.read(), 7);
            }
        }
    }
}

#[test]
fn what_was_got_is_said_with_the_reason() {
    let mapping = Mapping::new(&config(2 << 20, PagePolicy::Prefer)).unwrap();
    let finding = mapping.finding();
    assert_eq!(
        finding.degraded.is_none(),
        finding.pages == PageKind::Huge,
        "{finding:?}"
    );
    let plain = Mapping::new(&config(2 << 20, PagePolicy::Plain)).unwrap();
    assert_eq!(plain.finding().pages, PageKind::Plain);
    assert!(plain.finding().degraded.is_none());
}

#[test]
fn too_few_reserved_pages_are_refused_where_they_are_required() {
    // 64 TiB of reserved pages is more than any machine has.
    let error = Mapping::new(&config(1 << 46, PagePolicy::Require)).unwrap_err();
    assert!(matches!(error, MapError::NoHugePages { .. }));
    assert!(
        error.to_string().contains("vm.nr_hugepages=33554432"),
        "{error}"
    );
}

#[test]
fn sizes_that_no_mapping_has_are_refused() {
    for bytes in [0, (1 << 46) + 1, usize::MAX] {
        let error = Mapping::new(&config(bytes, PagePolicy::Prefer)).unwrap_err();
        assert!(matches!(error, MapError::BadSize { .. }));
    }
}

#[test]
fn a_node_that_cannot_be_preferred_is_a_finding_not_an_error() {
    let config = MappingConfig {
        numa_node: Some(1023),
        ..config(2 << 20, PagePolicy::Plain)
    };
    let mapping = Mapping::new(&config).unwrap();
    assert_eq!(mapping.numa_node(), Some(1023));
    assert!(mapping.finding().numa.is_some());
}

#[test]
fn a_forked_child_does_not_inherit_the_mapping() {
    let mapping = Mapping::new(&config(2 << 20, PagePolicy::Plain)).unwrap();
    let base = format!("{:x}-", mapping.base().as_ptr() as usize);
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let ours = maps.lines().skip_while(|line| !line.starts_with(&base));
    let flags = ours
        .into_iter()
        .find(|line| line.starts_with("VmFlags:"))
        .unwrap();
    assert!(flags.split_whitespace().any(|flag| flag == "dc"), "{flags}");
}
