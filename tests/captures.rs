use pushplane::capture::{Reader, learn, push, tunnel};
use std::path::PathBuf;
#[test]
fn dump() {
    let mut files: Vec<PathBuf> = std::fs::read_dir("/work/shared/captures")
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e != "tsv"))
        .collect();
    files.sort();
    for f in files {
        if f.is_dir() {
            continue;
        }
        let (rib, report) = learn::learn(&[f.clone()], &learn::LearnOptions::default()).unwrap();
        println!("== {}\n{report}", f.display());
        for g in &rib.gateways {
            println!("  {g:?}");
        }
        for u in &rib.users {
            println!("  {} {} r{} {:?} {:?}", u.push_id, u.device, u.realm, u.private, u.imsi);
        }
        let mut p = push::pushes(
            Reader::open(&f).unwrap(),
            push::PushOptions::default(),
            |ip, _: Option<&tunnel::Layer>| {
                rib.users.iter().find(|u| u.private.is_some_and(|p| p.ip() == ip)).map(|u| u.push_id)
            },
        );
        while p.next_push().is_some() {}
        println!("{:?} {:?}", p.counts(), p.tunnel_counts());
    }
}
