//! The `pageswarm` program.

use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::process::ExitCode as ProcessExit;

use clap::Parser as _;
use pageswarm_node::cli::{self, Cli, Command};
use pageswarm_node::exit::{ExitCode, Failure};
use pageswarm_vmm::child::{self, ServeError};

/// Pages come and go by the ten thousand a second, from several threads, for which glibc's
/// allocator is not made.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ProcessExit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    if matches!(cli.command, Command::VmProcess) {
        return vm_process();
    }
    match run(cli) {
        Ok(()) => ProcessExit::from(ExitCode::Done as u8),
        Err(failure) => fail(&failure),
    }
}

/// One virtual machine; the node that started it is at the other end of standard input.
fn vm_process() -> ProcessExit {
    let served =
        std::io::stdin().as_fd().try_clone_to_owned().map_err(ServeError::Control).and_then(|control| {
            child::serve(UnixStream::from(control), Some(pageswarm_node::interpreter::make))
        });
    match served {
        Ok(()) => ProcessExit::from(ExitCode::Done as u8),
        // The node was told why.
        Err(_) => ProcessExit::from(ExitCode::Failed as u8),
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("PAGESWARM_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("pageswarm_node=info,warn")),
        )
        .with_writer(std::io::stderr)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("node").build();
    let runtime =
        runtime.map_err(|error| Failure::new(ExitCode::Failed, format!("cannot start threads: {error}")))?;
    runtime.block_on(cli::run(cli.command))
}

fn usage(error: &clap::Error) -> ProcessExit {
    // clap prints help and version to standard output, mistakes to standard error.
    let printed = error.print();
    if error.use_stderr() || printed.is_err() {
        ProcessExit::from(ExitCode::Usage as u8)
    } else {
        ProcessExit::from(ExitCode::Done as u8)
    }
}

fn fail(failure: &Failure) -> ProcessExit {
    eprintln!("pageswarm: {}", failure.message);
    ProcessExit::from(failure.code as u8)
}
