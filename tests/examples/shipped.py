"""What LLaMA-Factory's own configurations of several processes hold, by the names of its files."""

from __future__ import annotations

from typing import Any

FSDP_CONFIG = {
    "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
    "fsdp_backward_prefetch": "BACKWARD_PRE",
    "fsdp_forward_prefetch": False,
    "fsdp_cpu_ram_efficient_loading": True,
    "fsdp_sharding_strategy": "FULL_SHARD",
    "fsdp_state_dict_type": "FULL_STATE_DICT",
    "fsdp_sync_module_states": True,
    "fsdp_use_orig_params": True,
}
LAUNCH = {
    "compute_environment": "LOCAL_MACHINE",
    "debug": False,
    "distributed_type": "FSDP",
    "downcast_bf16": "no",
    "machine_rank": 0,
    "main_training_function": "main",
    "mixed_precision": "bf16",
    "num_machines": 1,
    "num_processes": 2,
    "rdzv_backend": "static",
    "same_network": True,
    "tpu_env": [],
    "tpu_use_cluster": False,
    "tpu_use_sudo": False,
    "use_cpu": False,
}
NODES = {"num_machines": 2, "num_processes": 16, "main_process_ip": "192.168.0.1", "main_process_port": 29500}
FSDP = {
    "fsdp_config_offload": LAUNCH | {"fsdp_config": FSDP_CONFIG | {"fsdp_offload_params": True}},
    "fsdp_config_multiple_nodes": LAUNCH | NODES | {"fsdp_config": FSDP_CONFIG | {"fsdp_offload_params": False}},
}
"""What LLaMA-Factory's files in examples/accelerate hold; its fsdp_config.yaml is fsdp_config_offload.yaml."""

FP16 = {"enabled": "auto", "loss_scale": 0, "loss_scale_window": 1000, "initial_scale_power": 16, "hysteresis": 2}
COMMON = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "zero_allow_untested_optimizer": True,
    "fp16": FP16 | {"min_loss_scale": 1},
    "bf16": {"enabled": "auto"},
}
ZERO2 = {
    "stage": 2,
    "allgather_partitions": True,
    "allgather_bucket_size": 5e8,
    "overlap_comm": False,
    "reduce_scatter": True,
    "reduce_bucket_size": 5e8,
    "contiguous_gradients": True,
    "round_robin_gradients": True,
}
ZERO3 = {
    "stage": 3,
    "overlap_comm": False,
    "contiguous_gradients": True,
    "sub_group_size": 1e9,
    "reduce_bucket_size": "auto",
    "stage3_prefetch_bucket_size": "auto",
    "stage3_param_persistence_threshold": "auto",
    "stage3_max_live_parameters": 1e9,
    "stage3_max_reuse_distance": 1e9,
    "stage3_gather_16bit_weights_on_model_save": True,
}
ON_CPU = {"device": "cpu", "pin_memory": True}
STAGES: dict[str, dict[str, Any]] = {
    "ds_z2_config": ZERO2,
    "ds_z2_offload_config": ZERO2 | {"offload_optimizer": ON_CPU},
    "ds_z3_config": ZERO3,
    "ds_z3_offload_config": ZERO3 | {"offload_optimizer": ON_CPU, "offload_param": ON_CPU},
}
ZERO = {name: COMMON | {"zero_optimization": stage} for name, stage in STAGES.items()}
"""What LLaMA-Factory's files in examples/deepspeed hold, but for how they log."""
