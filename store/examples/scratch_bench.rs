use midge_store::*;
use std::time::Instant;
#[tokio::main]
async fn main() {
    let dir = std::env::args().nth(1).unwrap();
    let store = Store::open(format!("{dir}/b.db"), &StoreInfo::new("edge", "x")).unwrap();
    for (level, name, writers, per) in [
        (Durability::PowerLoss, "power", 1000usize, 200usize),
        (Durability::ProcessCrash, "crash", 1000, 200),
        (Durability::PowerLoss, "power1", 1, 2000),
    ] {
        let start = Instant::now();
        let tasks: Vec<_> = (0..writers)
            .map(|w| {
                let store = store.clone();
                tokio::spawn(async move {
                    for n in 0..per {
                        store
                            .commit(Batch::new().put(format!("q/{w}/{n:08}"), vec![7u8; 256]), level)
                            .await
                            .unwrap();
                        if n >= 50 {
                            store
                                .commit(Batch::new().delete(format!("q/{w}/{:08}", n - 50)), level)
                                .await
                                .unwrap();
                        }
                    }
                })
            })
            .collect();
        for t in tasks {
            t.await.unwrap();
        }
        let s = store.snapshot();
        println!(
            "{name}: {:.0} puts/s, {} commits {} batches",
            (writers * per) as f64 / start.elapsed().as_secs_f64(),
            s.commits,
            s.batches
        );
    }
    let mut batch = Batch::new();
    for n in 0..100_000 {
        batch = batch.put(format!("entry/{n:08}"), vec![7u8; 120]);
    }
    store.commit(batch, Durability::PowerLoss).await.unwrap();
    let t = Instant::now();
    let rows = store.scan("entry/").await.unwrap();
    println!("scan {} in {:?}", rows.len(), t.elapsed());
    let t = Instant::now();
    for n in 0..2000 {
        store.get(format!("entry/{n:08}")).await.unwrap();
    }
    println!("get {:?} each", t.elapsed() / 2000);
    let t = Instant::now();
    store.close().await.unwrap();
    println!("close {:?}", t.elapsed());
    let t = Instant::now();
    let store = Store::open(format!("{dir}/b.db"), &StoreInfo::new("edge", "x")).unwrap();
    println!("clean open {:?} size {}", t.elapsed(), std::fs::metadata(store.path()).unwrap().len());
    std::process::exit(if std::env::args().nth(2).is_some() {
        let t = Instant::now();
        drop(store);
        println!("drop {:?}", t.elapsed());
        0
    } else {
        0
    });
}
