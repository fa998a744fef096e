//! RAM images that were made elsewhere: imported on one node, fetched on another, bit for bit; and what is refused.
//! Method: real nodes and the real command line; images of seeded noise compared byte for byte.

use anyhow::{Context as _, ensure};
use pageswarm_node::api::views::ImportView;
use pageswarm_tests::cluster::{Ground, NodeProcess, PATIENCE, until};
use pageswarm_tests::command::{Outcome, pageswarm};
use pageswarm_tests::noise::noise;

const PAGE: usize = 4096;
const PAGES: usize = 500;

/// An image whose second page is zero and whose third is as the first.
fn first_image() -> Vec<u8> {
    let mut image = noise(1, PAGES * PAGE);
    image[PAGE..2 * PAGE].fill(0);
    image.copy_within(..PAGE, 2 * PAGE);
    image
}

async fn import(node: &NodeProcess, options: &[&str]) -> anyhow::Result<Outcome> {
    let directory = node.directory().to_string_lossy().into_owned();
    let command = ["checkpoint", "import", "--json", "--dir", &directory];
    pageswarm(&[&command, options].concat()).await
}

async fn imported(node: &NodeProcess, options: &[&str]) -> anyhow::Result<ImportView> {
    let outcome = import(node, options).await?;
    ensure!(outcome.code == Some(0), "import {options:?}: {outcome:?}");
    Ok(serde_json::from_str(&outcome.text)?)
}

#[tokio::test]
async fn imported_images_are_fetched_bit_for_bit() -> anyhow::Result<()> {
    let ground = Ground::new()?;
    let publisher = ground.create("publisher", &[]).await?;
    let follower = ground.join("follower", &publisher, "reader", &[]).await?;
    let [memory, state, image, image_state] =
        ["memory", "state", "image", "image-state"].map(|name| ground.path(name));
    let path = |path: &std::path::Path| path.to_string_lossy().into_owned();

    let mut expected = first_image();
    std::fs::write(&memory, &expected)?;
    std::fs::write(&state, noise(2, 100_000))?;
    let first = imported(&publisher, &["--memory", &path(&memory), "--state", &path(&state)]).await?;
    assert_eq!((first.index, first.new_pages, first.duplicate_pages), (0, PAGES as u64 - 2, 1));

    // One page changed a little, one became zero, one became what another is.
    expected[10 * PAGE + 7] ^= 1;
    expected[20 * PAGE..21 * PAGE].fill(0);
    expected.copy_within(30 * PAGE..31 * PAGE, 40 * PAGE);
    std::fs::write(&memory, &expected)?;
    let options = ["--memory", &path(&memory), "--lineage", &first.lineage];
    let second = imported(&publisher, &options).await?;
    assert_eq!((second.index, &second.lineage), (1, &first.lineage));
    assert_eq!((second.new_pages, second.zero_pages, second.duplicate_pages), (1, 1, 1));
    assert!(second.new_bytes < 200, "one changed word costs {} bytes", second.new_bytes);

    follower.wait_checkpoint(&first.lineage, 1).await?;
    let directory = path(follower.directory());
    for (index, state_wanted) in [("0", noise(2, 100_000)), ("1", vec![])] {
        let (output, state_output) = (path(&image), path(&image_state));
        let command = ["checkpoint", "get", "--dir", &directory, &first.lineage, index];
        let outcome = pageswarm(&[&command[..], &["-o", &output, "--state", &state_output]].concat()).await?;
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let image_wanted = if index == "0" { first_image() } else { expected.clone() };
        assert!(std::fs::read(&image)? == image_wanted, "checkpoint {index} has other bytes");
        assert!(std::fs::read(&image_state)? == state_wanted, "checkpoint {index} has another state");
    }
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_imported_is_refused_and_changes_nothing() -> anyhow::Result<()> {
    let ground = Ground::new()?;
    let mut publisher = ground.create("publisher", &[]).await?;
    let reader = ground.join("reader", &publisher, "reader", &[]).await?;
    let write = |name: &str, bytes: Vec<u8>| -> anyhow::Result<String> {
        std::fs::write(ground.path(name), bytes)?;
        Ok(ground.path(name).to_string_lossy().into_owned())
    };
    let good = write("good", noise(1, 4 * PAGE))?;
    let (odd, empty) = (write("odd", noise(1, PAGE + 1))?, write("empty", vec![])?);
    let larger = write("larger", noise(1, 5 * PAGE))?;
    let lineage = imported(&publisher, &["--memory", &good]).await?.lineage;

    let refused = async |node: &NodeProcess, options: &[&str], code: i32, says: &str| -> anyhow::Result<()> {
        let outcome = import(node, options).await?;
        assert_eq!(outcome.code, Some(code), "{options:?}: {outcome:?}");
        assert!(outcome.text.contains(says), "{options:?}: {outcome:?}");
        Ok(())
    };
    refused(&publisher, &["--memory", &odd], 2, "whole number of pages").await?;
    refused(&publisher, &["--memory", &empty], 2, "whole number of pages").await?;
    refused(&publisher, &["--memory", "/no/such/file"], 2, "/no/such/file cannot be read").await?;
    refused(&publisher, &["--memory", &larger, "--lineage", &lineage], 2, "has 5 pages").await?;
    refused(&publisher, &["--memory", &good, "--lineage", "ffff"], 19, "no lineage known here").await?;
    refused(&reader, &["--memory", &good], 18, "may not publish").await?;
    // The failed attempts left the lineage open.
    let again = imported(&publisher, &["--memory", &good, "--lineage", &lineage]).await?;
    assert_eq!((again.index, again.new_pages, again.unchanged_pages), (1, 0, 4));

    // One writer, one chain: what another process of the node began cannot be continued.
    publisher.kill().await?;
    publisher.restart(&[]).await?;
    let known = async || {
        publisher.status().await.ok()?.lineages.iter().any(|view| view.lineage == lineage).then_some(())
    };
    until("the lineage is known again", PATIENCE, known).await?;
    refused(&publisher, &["--memory", &good, "--lineage", &lineage], 19, "begin a new one").await?;
    let latest = publisher.checkpoints(&lineage).await?;
    assert_eq!(latest.last().context("no checkpoint")?.index, 1);
    Ok(())
}

#[tokio::test]
async fn an_imported_checkpoint_is_not_resumed_here() -> anyhow::Result<()> {
    let ground = Ground::new()?;
    let publisher = ground.create("publisher", &[]).await?;
    let memory = ground.path("memory");
    std::fs::write(&memory, noise(1, 64 << 20))?;
    let memory = memory.to_string_lossy().into_owned();
    let lineage = imported(&publisher, &["--memory", &memory]).await?.lineage;
    let directory = publisher.directory().to_string_lossy().into_owned();
    let outcome = pageswarm(&["restore", "--dir", &directory, &lineage, "0"]).await?;
    assert_ne!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.text.contains("imported"), "{outcome:?}");
    Ok(())
}

/// Bytes that a chunk of noise takes in a delta, at least: its hash.
const HASH: u64 = 32;

#[tokio::test]
async fn a_delta_goes_from_reader_to_reader() -> anyhow::Result<()> {
    const PAGES: usize = 20_000;
    let ground = Ground::new()?;
    let publisher = ground.create("publisher", &[]).await?;
    let mut readers: Vec<NodeProcess> = Vec::new();
    for name in ["a", "b", "c", "d", "e", "f", "g"] {
        let reader = ground.join(name, &publisher, "reader", &[]).await?;
        for other in &readers {
            reader.wait_peer(other).await?;
        }
        readers.push(reader);
    }
    let memory = ground.path("memory");
    std::fs::write(&memory, noise(3, PAGES * PAGE))?;
    let import = imported(&publisher, &["--memory", &memory.to_string_lossy()]).await?;
    for reader in &readers {
        reader.wait_checkpoint(&import.lineage, 0).await?;
    }
    let delta = PAGES as u64 * HASH;
    let mut passed_on = 0;
    for reader in &readers {
        passed_on += reader.metric("pageswarm_metadata_sent_bytes_total").await?;
    }
    let sent = publisher.metric("pageswarm_metadata_sent_bytes_total").await?;
    println!("deltas of {delta} bytes: {sent} bytes from the writer, {passed_on} from others");
    // Two of the seven ask the writer, and so do those whose parent has not heard of the lineage yet.
    ensure!(sent >= 2 * delta && sent < 6 * delta, "{sent} bytes, {:.1} deltas", sent as f64 / delta as f64);
    ensure!(passed_on >= 2 * delta, "{passed_on} bytes, {:.1} deltas", passed_on as f64 / delta as f64);
    Ok(())
}
