//! A shared library with NVML's C interface (and as much of CUDA's as a test of GPU memory calls), driven by a small text file: GPUs, links, load and faults without a GPU.
//!
//! Comes in: calls as NVIDIA's library takes them, and the file `LIBRARY.conf` that lies beside the library (so that
//! copies in folders of their own are nodes of their own, also within one process). Goes out: what the file says, read
//! again whenever it has changed. It depends on nothing but the standard library; the agent's build script compiles it
//! from source. It must never show a GPU that the file does not name, and never crash its caller.
//!
//! # The file
//! One statement per line, `#` begins a comment, words with spaces stand in double quotes.
//!
//! ```text
//! driver 570.124.06
//! seed node-0                              # names the UUIDs; default: the library's path
//! gpus 8 model="NVIDIA H100 80GB HBM3" memory_mib=81559 nvlink=switch
//!                                          # nvlink = switch (all reach all) | none | islands:N (groups of N)
//! gpus 8 topology=nvswitch                 # the default; or pcie-pairs: two by two on a PCIe switch and a bridge
//! gpus 4 topology=nvl72                    # a tray of a rack: a switch, and a fabric that reaches beyond the node
//! fabric 0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0 7  # which: cluster's UUID, clique; trays of one rack state the same
//! link 5 17 down                           # NVLink 17 of GPU 5
//! mig 3 3g.40gb 4 4                        # GPU 3 is cut; this instance has memory slices 4 to 7 (first, size)
//! mig 3 1g.10gb 0 1 MIG-x                  # the same with a UUID of its own
//! gpu 3 util=97 used_mib=40000 power_mw=512000 temp_c=61 sm_mhz=1980 mem_mhz=2619 numa=1 mig=1
//! gpu 4 ecc_corrected=2 ecc_uncorrected=1 throttle=0x8 recovery=1 uuid=GPU-x model=A100 memory_mib=40960
//! gpu 5 remapped=2 remap_pending=1 remap_failed=0 retired_pending=1 nvlink_errors=300
//! gpu 6 cuda_mib=64 flip=4096             # CUDA finds so much memory, 0 (the default): no GPU; a bit that does not hold
//! process 3 4242 39000                     # GPU, process id, MiB
//! lost 2                                   # every call about GPU 2 says: GPU is lost
//! xid 5 79 1                               # GPU, code, how often in all: raising it later delivers more
//! slow nvmlDeviceGetUtilizationRates 5000  # milliseconds; `*`: every call
//! slow nvmlDeviceGetPowerUsage 3600000 3   # about GPU 3 only: the call hangs
//! fail nvmlDeviceGetTemperature 999 3      # NVML's return code; GPU 3 only, or all without it
//! ```
//! XIDs are delivered to event sets that were registered before the line appeared or grew, as a driver does it.

mod abi;
mod conf;
mod cuda;
mod exports;
mod mig;
mod state;
