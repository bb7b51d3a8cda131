//! What a user does with `builder`, told with the real program: real namespaces, a real registry, real processes.
//!
//! One file for each thing a user can do. The base images come from `scripts/base-images`; run `scripts/test`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, and says where")]

#[path = "../support/registry/mod.rs"]
#[expect(dead_code, reason = "the stories of registries use more of it")]
mod lying;
#[path = "../support/mod.rs"]
mod support;

mod add_from_elsewhere;
mod bound_the_store;
mod build_for_platforms;
mod build_from_elsewhere;
mod build_on_a_farm;
mod build_on_layouts;
mod build_with_cache;
mod build_with_stages;
mod cache_services;
mod carry_caches;
mod carry_statements;
mod check_a_dockerfile;
mod combine_in_registries;
mod copy_files;
mod damage_the_store;
mod enter_failed_steps;
mod exchange_images;
mod explain_a_build;
mod fetch_single_files;
mod fill_the_disk;
mod format_a_dockerfile;
mod generate_sboms;
mod give_arguments;
mod hold_to_schemas;
mod in_an_unprivileged_pod;
mod interrupt_a_build;
mod judge_sources;
mod keep_caches;
mod limit_steps;
mod link_copies;
mod list_packages;
mod load_into_engines;
mod load_what_lies;
mod log_in;
mod look_at_images;
mod make_mistakes;
mod mount_things;
mod move_images;
mod name_a_frontend;
mod networks;
mod others;
mod pin_sources;
mod prune_while_building;
mod push_while_building;
mod read_old_logs;
mod reproduce_an_image;
mod run_at_once;
mod run_images;
mod run_steps;
mod run_with_a_runtime;
mod see_the_plan;
mod share_a_cache;
mod share_a_cache_by_reapi;
mod share_a_cache_by_registry;
mod share_a_cache_by_s3;
mod share_a_store;
mod sign_images;
mod squash_layers;
mod state_provenance;
mod the_users_own;
mod without_root;
mod write_bundles;
mod write_files;
mod write_outputs;
