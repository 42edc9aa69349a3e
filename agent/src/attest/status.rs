//! `/proc/<pid>/status` and `/proc/<pid>/stat`, as proc(5) describes them.

/// Effective user and group of a process, and its supplementary groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
}

impl Status {
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let mut uid = None;
        let mut gid = None;
        let mut groups = None;
        for line in text.lines() {
            // The kernel escapes newlines in `Name:`, and the first of each key is its own.
            let Some((key, values)) = line.split_once(':') else { continue };
            let slot = match key {
                "Uid" => &mut uid,
                "Gid" => &mut gid,
                "Groups" => {
                    let parsed: Result<Vec<u32>, _> = values.split_whitespace().map(str::parse).collect();
                    groups = groups.or(parsed.ok());
                    continue;
                }
                _ => continue,
            };
            // Real, effective, saved, file system.
            *slot = slot.or_else(|| values.split_whitespace().nth(1).and_then(|value| value.parse().ok()));
        }
        Ok(Self {
            uid: uid.ok_or("no effective user id in status")?,
            gid: gid.ok_or("no effective group id in status")?,
            groups: groups.ok_or("no groups in status")?,
        })
    }
}

/// Field 22 of `stat`: start of the process in clock ticks since boot.
pub(super) fn start_ticks(stat: &str) -> Result<u64, &'static str> {
    // The name in field 2 may hold spaces and parentheses of its own: only the last one closes it.
    let (_, fields) = stat.rsplit_once(')').ok_or("no name in stat")?;
    fields.split_whitespace().nth(19).and_then(|value| value.parse().ok()).ok_or("no start time in stat")
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\ta: b\nUmask:\t0022\nState:\tS (sleeping)\nUid:\t1000\t1001\t1002\t1003\nGid:\t100\t101\t102\t103\nFDSize:\t64\nGroups:\t4 24 1000 \nVmPeak:\t1 kB\n";

    #[test]
    fn the_effective_user_and_group_count() {
        let status = Status::parse(STATUS).unwrap();
        assert_eq!(status, Status { uid: 1001, gid: 101, groups: vec![4, 24, 1000] });
    }

    #[test]
    fn no_supplementary_groups_is_an_empty_list() {
        let status = Status::parse("Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t \n").unwrap();
        assert!(status.groups.is_empty());
    }

    #[test]
    fn a_missing_or_odd_line_is_an_error() {
        for without in ["Uid", "Gid", "Groups"] {
            let text: String = STATUS
                .lines()
                .filter(|line| !line.starts_with(without))
                .flat_map(|line| [line, "\n"])
                .collect();
            assert!(Status::parse(&text).is_err(), "{without}");
        }
        assert!(Status::parse("Uid:\tx\ty\nGid:\t0\t0\nGroups:\t\n").is_err());
        assert!(Status::parse("Uid:\t0\t0\nGid:\t0\t0\nGroups:\t1 x\n").is_err());
    }

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let rest = (3..=52).map(|field| field.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(start_ticks(&format!("7 (sleep) {rest}")), Ok(22));
        assert_eq!(start_ticks(&format!("7 (a) 1 2 (b) c) {rest}")), Ok(22));
        assert!(start_ticks("7 (sleep) S 1").is_err());
        assert!(start_ticks("").is_err());
    }
}
