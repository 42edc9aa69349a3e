use crate::common::*;
use midge_agent::client::WorkloadClient;
use std::time::{Duration, Instant};
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zz_latency() {
    let upstream = FakeUpstream::new(Duration::from_secs(3600));
    let agent = TestAgent::start(&upstream);
    let mut all = vec![];
    for round in 0..200 {
        let client = WorkloadClient::connect(&agent.socket).await.unwrap();
        let waiting = tokio::spawn(async move {
            client.await_identity().await.unwrap();
            client.fetch_x509().await.unwrap();
            Instant::now()
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        let t = Instant::now();
        upstream.set_entries(vec![entry("a", &format!("/app/{round}"))]);
        all.push(waiting.await.unwrap() - t);
        upstream.set_entries(vec![]);
    }
    all.sort();
    println!("p50 {:?} p99 {:?} max {:?}", all[100], all[197], all[199]);
    let l = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let c = std::net::TcpStream::connect(l.local_addr().unwrap()).unwrap();
    let (a, p) = l.accept().unwrap();
    let t = Instant::now();
    for _ in 0..20 {
        midge_agent::owner_of_loopback(p, a.local_addr().unwrap()).unwrap();
    }
    println!("owner {:?}, procs {}", t.elapsed() / 20, std::fs::read_dir("/proc").unwrap().count());
    drop(c);
    let t = Instant::now();
    for _ in 0..100 {
        midge_agent::attest_process(std::process::id(), own_uid(), rustix::process::getegid().as_raw())
            .unwrap();
    }
    println!("attest all {:?}", t.elapsed() / 100);
}
