//! Nodes that say which rack they are in fetch each chunk into their rack about once. Method: a publisher, two racks of two
//! real nodes that fetch an imported image of noise at the same time, slowly enough to hear of each other; what each
//! received from whom, by its own count. The same without racks, for comparison.

use anyhow::{Context as _, ensure};
use pageswarm_node::api::views::ImportView;
use pageswarm_tests::cluster::{Ground, NodeProcess};
use pageswarm_tests::command::pageswarm;
use pageswarm_tests::noise::noise;

const IMAGE_BYTES: usize = 24 << 20;
const RACKS: [&str; 4] = ["a", "a", "b", "b"];

/// Encoded bytes that came into each rack from outside, over those of the image.
async fn copies_into_racks(labelled: bool) -> anyhow::Result<[f64; 2]> {
    let ground = Ground::new()?;
    let publisher = ground.create("publisher", &["--upload-limit", "8MiB"]).await?;
    let image = ground.path("image");
    std::fs::write(&image, noise(7, IMAGE_BYTES))?;
    let (directory, image) = (publisher.directory().to_string_lossy(), image.to_string_lossy());
    let import = ["checkpoint", "import", "--json", "--dir", &directory, "--memory", &image];
    let outcome = pageswarm(&import).await?;
    ensure!(outcome.code == Some(0), "{outcome:?}");
    let imported: ImportView = serde_json::from_str(&outcome.text)?;
    let mut nodes = Vec::new();
    for (number, rack) in RACKS.iter().enumerate() {
        let place: &[&str] = if labelled { &["--rack", rack] } else { &[] };
        let options = [&["--upload-limit", "8MiB"], place].concat();
        nodes.push(ground.join(&format!("node-{number}"), &publisher, "reader", &options).await?);
    }
    for (number, node) in nodes.iter().enumerate() {
        for other in &nodes[..number] {
            node.wait_peer(other).await?;
        }
        node.wait_checkpoint(&imported.lineage, imported.index).await?;
    }
    let fetches = nodes.iter().map(|node| node.fetch(&imported.lineage, imported.index));
    for fetched in futures::future::join_all(fetches).await {
        fetched?;
    }
    let (mut from_outside, names): ([u64; 2], Vec<&str>) =
        ([0; 2], nodes.iter().map(|node| node.id.as_str()).collect());
    for (number, node) in nodes.iter().enumerate() {
        from_outside[number / 2] += from_elsewhere(node, &names, RACKS[number], labelled).await?;
    }
    Ok(from_outside.map(|bytes| bytes as f64 / IMAGE_BYTES as f64))
}

/// Bytes of chunks that a node received from whoever is not in its rack. What its status says of places is right.
async fn from_elsewhere(
    node: &NodeProcess,
    names: &[&str],
    rack: &str,
    labelled: bool,
) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for peer in node.status().await?.peers {
        let place = names.iter().position(|name| *name == peer.node).map(|number| RACKS[number]);
        let shown = place.filter(|_| labelled).map_or_else(String::new, |rack| format!("-/{rack}/-"));
        ensure!(peer.place == shown, "{} is shown in {:?}, not in {shown:?}", peer.node, peer.place);
        bytes += if place == Some(rack) { 0 } else { peer.chunks_down_bytes };
    }
    Ok(bytes)
}

#[tokio::test]
async fn a_chunk_comes_into_a_rack_about_once() -> anyhow::Result<()> {
    let plain = copies_into_racks(false).await.context("without racks")?;
    let racks = copies_into_racks(true).await.context("with racks")?;
    println!("copies into each rack: {racks:.3?} of nodes that know it, {plain:.3?} of nodes that do not");
    assert!(racks.iter().all(|copies| *copies < 1.15), "{racks:?}");
    assert!(racks.iter().sum::<f64>() < plain.iter().sum(), "{racks:?}, without racks {plain:?}");
    Ok(())
}
