//! The agent with real processes, against a scheduler that is played by the test.
//!
//! What an agent must do, and the test that shows it. `here` is this binary, `it` the end-to-end binary of `dure-tests`,
//! `unit` a test beside the code.
//!
//! | must | shown by |
//! |---|---|
//! | user, /tmp, limits, cgroups of its own | here `isolation::a_member_is_its_user_and_has_its_own_tmp_limits_and_cgroups` |
//! | memory above the grant | here `isolation::memory_above_the_grant_is_refused_and_reported` |
//! | fork, setsid, too many processes | here `isolation::processes_beyond_the_bound_and_families_that_hide_are_ended`, `shim::the_time_limit_reaches_descendants_in_sessions_of_their_own` |
//! | another job's GPU device, cgroup v1 | here `isolation::the_device_of_another_jobs_gpu_cannot_be_opened` |
//! | the same, cgroup v2 (device program) | here `isolation::a_device_program_guards_the_gpus_too`; the lines of v2: unit `isolation::groups` |
//! | a weaker node says so, or refuses | here `isolation::strict_mode_names_what_the_node_cannot_keep` |
//! | containers: GPUs by CDI, mounts, user, reports | here `containers::a_member_in_a_container_is_a_member_like_any_other` |
//! | containers: signals, everything killed | here `containers::all_of_a_container_is_ended_and_its_signal_is_known` |
//! | images before the barrier, bounded | here `containers::an_image_is_here_before_its_member_says_that_it_is_prepared`, `what_cannot_be_had_is_said_before_anything_starts` |
//! | barrier | here `life::a_gang_waits_at_the_barrier_until_go`, it `gang::a_gang_over_four_nodes_...` |
//! | rendezvous variables, checkpoint, resume | it `beside::a_gang_over_eight_agents_meets_and_resumes_from_its_checkpoint_after_a_preemption` |
//! | a failing member stops the gang | it `gang::a_member_that_fails_stops_its_gang` |
//! | `dure run`, `exec`, `shell` | it `beside::an_attended_job_...`, `beside::a_program_beside_a_member_has_its_streams_and_its_place` |
//! | `srun` in a batch script, steps, mpirun's shell | it `beside::the_script_of_a_batch_job_runs_once_and_srun_takes_its_steps_to_every_member` |
//! | `srun` where every member runs the script | it `beside::a_batch_scripts_srun_starts_its_tasks_over_the_allocation` |
//! | nobody starts steps for others | it `beside::a_step_is_refused_to_whom_the_member_is_not` (names), here `isolation::a_step_is_refused_to_a_user_whose_job_it_is_not` |
//! | steps are listed with their ends | it `beside::steps_are_listed_with_who_started_them_and_how_they_ended` |
//! | own signal, grace, TERM, KILL, hook, warning | here `stopping::*`, `life::a_stop_gives_the_grace_and_then_kills` |
//! | wall time on the agent | here `life::the_time_limit_ends_it_without_any_word_of_the_scheduler` |
//! | telemetry, verdicts, XIDs | here `life::heartbeats_carry_telemetry_and_changes_of_health`, unit `inventory::tests`, `inventory::health` |
//! | one GPU fenced, share of the fleet | it `health::one_bad_gpu_is_fenced_...`; unit `dure-scheduler agents::breaker` |
//! | NVML hangs: the agent goes on, the GPU is bad | here `gpus::a_driver_that_hangs_stops_neither_...` |
//! | GPU memory before first use, through CUDA | here `gpus::a_gpu_whose_memory_does_not_hold_...`, unit `checks::gpu_memory` |
//! | verdicts over restarts, repeat offenders | the same; unit `inventory::health` |
//! | MIG listed, racks, pairs, dead links | unit `inventory::tests`, `checks` |
//! | idle allocations: notice, then the action | it `health::who_does_not_use_its_gpus_...`; unit `dure-core tests::idle` |
//! | what a user is told of refusals and escapes | it `confined::what_a_job_may_not_do_...`, `confined::the_gpu_of_another_job_...` |
//! | containers and exec through a scheduler | it `confined::a_container_runs_...` |
//! | node checks, prolog, epilog | here `stopping::a_node_that_fails_a_check_offers_no_gpu_until_it_passes`, `stopping::the_sites_prolog_and_epilog_...` |
//! | logs bounded, rotated | here `logs::the_newest_output_is_kept_and_a_file_of_the_jobs_own_has_all_of_it` |
//! | restart, adoption, epochs | here `restart::*` |
//! | cost | `dure bench agent`; real NVML: here `gpu::*` with `GPU_TESTS=1` |

mod containers;
mod gpu;
mod gpus;
mod harness;
mod identity;
mod isolation;
mod life;
mod logs;
mod restart;
mod shim;
mod simulated;
mod stopping;
