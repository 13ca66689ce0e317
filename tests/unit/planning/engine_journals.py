"""Short excerpts of what engines wrote in public reports of their failures, each with the cause it shows."""

# ruff: noqa: E501 - recorded lines stand as they were written

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recorded:
    """A journal, whose it is, the cause, and words that the diagnosis carries."""

    cause: str
    engine: str
    journal: str
    says: str = ""


JOURNALS = (
    Recorded(
        "gpu_fell_off_the_bus",
        "llama.cpp",
        "Unable to determine the device handle for GPU0000:01:00.0: GPU is lost.  Reboot the system to recover\n"
        "CUDA error: unspecified launch failure\n",
        "fallen off the bus",
    ),
    Recorded(
        "driver_mismatch",
        "ollama",
        'time=2025-03-24T14:07:22.093+08:00 level=INFO msg="nvml: Driver/library version mismatch"\n',
    ),
    Recorded(
        "driver_mismatch",
        "vllm",
        "NVRM: API mismatch: the client has the version 580.95.05, but\n"
        "NVRM: this kernel module has the version 580.82.07.\n",
    ),
    Recorded(
        "driver_too_old",
        "vllm",
        "RuntimeError: The NVIDIA driver on your system is too old (found version 12080). Please update your GPU driver\n",
        "580",
    ),
    Recorded(
        "driver_too_old",
        "llama.cpp",
        "ggml_cuda_init: failed to initialize CUDA: CUDA driver version is insufficient for CUDA runtime version\n",
    ),
    Recorded(
        "driver_too_new",
        "llama.cpp",
        "NVRM: The NVIDIA Tesla V100 GPU installed in this system is supported through the NVIDIA 580.xx Legacy drivers.\n"
        "NVRM: No NVIDIA GPU found.\n",
        "driver: 580-server",
    ),
    Recorded(
        "gpu_too_old",
        "vllm",
        "ERROR 07-28 15:07:22 [core.py:632] RuntimeError: CUDA error: no kernel image is available for execution on the "
        "device\nERROR 07-28 15:07:22 [core.py:632] For debugging consider passing CUDA_LAUNCH_BLOCKING=1\n",
        "dtype: half",
    ),
    Recorded(
        "gpu_too_old",
        "vllm",
        "ERROR 01-20 01:25:05 engine.py:366] Bfloat16 is only supported on GPUs with compute capability of at least 8.0. "
        "Your Tesla V100-PCIE-32GB GPU has compute capability 7.0. You can use float16 instead by explicitly setting "
        "the`dtype` flag in CLI, for example: --dtype=half.\n",
    ),
    Recorded("no_gpu_visible", "vllm", "RuntimeError: No CUDA GPUs are available\n"),
    Recorded(
        "no_gpu_visible", "vllm", "RuntimeError: Failed to infer device type, please set the environment variable\n"
    ),
    Recorded(
        "context_too_large",
        "vllm",
        "ERROR 06-02 05:17:18 [core.py:387] ValueError: To serve at least one request with the models's max seq len "
        "(40960), (10.00 GiB KV cache is needed, which is larger than the available KV cache memory (1.25 GiB). Based on "
        "the available memory,  Try increasing `gpu_memory_utilization` or decreasing `max_model_len`\n",
        "context",
    ),
    Recorded(
        "context_too_large",
        "tgi",
        "RuntimeError: Not enough memory to handle 4096 prefill tokens. You need to decrease `--max-batch-prefill-tokens`\n",
    ),
    Recorded(
        "gpu_out_of_memory",
        "llama.cpp",
        "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 45108.64 MiB on device 0: cudaMalloc failed: out of memory\n"
        "llama_model_load: error loading model: unable to allocate CUDA0 buffer\n"
        "llama_load_model_from_file: failed to load model\n",
        "provisioner fit",
    ),
    Recorded(
        "gpu_out_of_memory",
        "vllm",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 16.00 GiB. GPU 0 has a total capacity of 44.53 GiB "
        "of which 187.94 MiB is free. Process 3909982 has 44.34 GiB memory in use.\n",
    ),
    Recorded(
        "gpu_out_of_memory",
        "vllm",
        "ValueError: Free memory on device cuda:0 (13.33/22.07 GiB) on startup is less than desired GPU memory "
        "utilization (0.92, 20.3 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.\n",
    ),
    Recorded(
        "gpu_out_of_memory",
        "ollama",
        "ollama[1418]: llama_model_load: error loading model: unable to allocate CUDA0 buffer\n"
        "ollama[1418]: panic: unable to load model: /usr/share/ollama/.ollama/models/blobs/sha256-9801e7fce27dbf3d\n",
    ),
    Recorded(
        "out_of_memory",
        "tgi",
        "2024-08-11T09:36:31.932556Z ERROR shard-manager: text_generation_launcher: Shard process was signaled to "
        "shutdown with signal 9 rank=0\n2024-08-11T09:36:32.029976Z ERROR text_generation_launcher: Shard 0 failed to "
        "start\n",
    ),
    Recorded(
        "out_of_memory",
        "ollama",
        "alloc_tensor_range: failed to allocate CPU buffer of size 437944320\n"
        "llama_model_load: error loading model: unable to allocate CPU buffer\n",
    ),
    Recorded(
        # Main memory, of which a part is pinned for the card.
        "out_of_memory",
        "llama.cpp",
        "llama_model_load: error loading model: unable to allocate CUDA_Host buffer\n"
        "llama_load_model_from_file: failed to load model\n",
    ),
    Recorded(
        "out_of_memory",
        "llama.cpp",
        "llm-small.service: A process of this unit has been killed by the OOM killer.\n"
        "llm-small.service: Main process exited, code=killed, status=9/KILL\n"
        "llm-small.service: Failed with result 'oom-kill'.\n",
    ),
    Recorded("disk_full", "vllm", "OSError: [Errno 28] No space left on device: '/var/lib/llm/huggingface/hub/tmp'\n"),
    Recorded("disk_full", "ollama", 'level=ERROR msg="download failed" error="write blobs: no space left on device"\n'),
    Recorded(
        "no_network",
        "vllm",
        "OSError: We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them in the cached "
        "files.\nValueError: Invalid repository ID or local directory specified: 'Qwen/Qwen2.5-7B-Instruct-AWQ'.\n",
        "gateway",
    ),
    Recorded(
        "no_network",
        "ollama",
        'Error: pull model manifest: Get "https://registry.ollama.ai/v2/library/llama3.1/manifests/8b": dial tcp: lookup '
        "registry.ollama.ai on 127.0.0.53:53: no such host\n",
    ),
    Recorded(
        "model_gated",
        "vllm",
        "OSError: You are trying to access a gated repo.\nMake sure to have access to it at "
        "https://huggingface.co/meta-llama/Llama-2-7b-hf.\n401 Client Error. (Request ID: Root=1-6735bc0f)\n\n"
        "Cannot access gated repo for url https://huggingface.co/meta-llama/Llama-2-7b-hf/resolve/main/config.json.\n",
        "huggingface_token",
    ),
    Recorded(
        "model_gated",
        "tgi",
        "huggingface_hub.errors.GatedRepoError: 403 Client Error. (Request ID: Root=1-66f4b037)\n"
        "Access to model google/gemma-2-2b-it is restricted and you are not in the authorized list.\n",
    ),
    Recorded(
        "model_missing",
        "vllm",
        "OSError: llm/vicuna-7b is not a local folder and is not a valid model identifier listed on "
        "'https://huggingface.co/models'\nIf this is a private repository, make sure to pass a token\n",
        "spelling",
    ),
    Recorded(
        "model_missing",
        "vllm",
        "(APIServer pid=3122) huggingface_hub.errors.RepositoryNotFoundError: 401 Client Error.\n"
        "(APIServer pid=3122) Repository Not Found for url: https://huggingface.co/Qwen/Qwen3.5-27B-AWQ/resolve/main/\n",
    ),
    Recorded("model_missing", "ollama", "Error: pull model manifest: file does not exist\n"),
    Recorded(
        "model_missing",
        "llama.cpp",
        "gguf_init_from_file: failed to open GGUF file '/var/lib/llm/models/ab12.gguf' (No such file or directory)\n"
        "llama_model_load: error loading model: llama_model_loader: failed to load model from /var/lib/llm/models/ab12\n",
    ),
    Recorded(
        "model_unknown_to_engine",
        "llama.cpp",
        "llama_model_load: error loading model: error loading model architecture: unknown model architecture: 'qwen9'\n",
        "newer version",
    ),
    Recorded(
        "model_unknown_to_engine",
        "vllm",
        "ValueError: Model architectures ['Qwen9ForCausalLM'] are not supported for now. Supported architectures: [...]\n",
    ),
    Recorded(
        "model_damaged",
        "llama.cpp",
        "gguf_init_from_file_impl: invalid magic characters: 'oops', expected 'GGUF'\n"
        "llama_model_load: error loading model: llama_model_loader: failed to load model from tiny.gguf\n",
    ),
    Recorded(
        "model_damaged", "vllm", "safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge\n"
    ),
    Recorded(
        "model_damaged",
        "llama.cpp",
        "0.00.013.741 E gguf_init_from_reader: bad GGUF version: 0\n"
        "0.00.013.768 E gguf_init_from_reader: failed to read header\n"
        "0.00.013.802 E llama_model_load: error loading model: llama_model_loader: failed to load model from broken.gguf\n"
        "0.00.014.993 E srv  llama_server: exiting due to model loading error\n",
    ),
    Recorded(
        "port_taken",
        "llama.cpp",
        "start: binding port with default address family\n"
        "start: couldn't bind HTTP server socket, hostname: 0.0.0.0, port: 8080\n",
        "sport = :8080",
    ),
    Recorded("port_taken", "ollama", "Error: listen tcp 0.0.0.0:11434: bind: address already in use\n"),
    Recorded("port_taken", "vllm", "OSError: [Errno 98] Address already in use\n"),
    Recorded(
        "argument_unknown",
        "vllm",
        "usage: vllm serve [model_tag] [options]\nvllm: error: unrecognized arguments: --swap-space 4\n",
        "--swap-space 4",
    ),
    Recorded("argument_unknown", "llama.cpp", "error: invalid argument: --mlock\n", "--mlock"),
    Recorded(
        "argument_unknown", "llama.cpp", "error: invalid argument: --mlock\n", "instead of --mlock, write load-mode"
    ),
    Recorded("argument_unknown", "tgi", "error: unexpected argument '--max-batch' found\n", "--max-batch"),
    Recorded(
        "argument_refused",
        "llama.cpp",
        "error while handling argument \"--flash-attn\": error: unknown value for --flash-attn: 'maybe'\n",
        "--flash-attn",
    ),
    Recorded(
        "no_compiler", "vllm", "RuntimeError: Failed to find C compiler. Please specify via CC environment variable.\n"
    ),
    Recorded(
        "cpu_lacks_instructions",
        "llama.cpp",
        "llm-small.service: Main process exited, code=dumped, status=4/ILL\n"
        "llm-small.service: Failed with result 'core-dump'.\n",
        "CPU type host",
    ),
    Recorded(
        "cpu_lacks_instructions",
        "tgi",
        "ERROR shard-manager: text_generation_launcher: Shard process was signaled to shutdown with signal 4 rank=0\n",
    ),
    Recorded(
        "library_missing",
        "llama.cpp",
        "llama-server: error while loading shared libraries: libcudart.so.12: cannot open shared object file: No such "
        "file or directory\n",
        "libcudart.so.12",
    ),
    Recorded(
        "program_missing",
        "ollama",
        "llm-chat.service: Failed at step EXEC spawning /opt/llm/ollama/ab/bin/ollama: No such file or directory\n"
        "llm-chat.service: Main process exited, code=exited, status=203/EXEC\n",
    ),
    Recorded(
        "model_not_loaded",
        "llama.cpp",
        "llama_model_load: error loading model: missing tensor 'blk.0.attn_norm.weight'\n",
        "missing tensor",
    ),
    Recorded(
        "gpu_failed",
        "llama.cpp",
        "CUDA error: an illegal memory access was encountered\n  current device: 0, in function ggml_backend_cuda\n",
        "illegal memory access",
    ),
    Recorded(
        "engine_dies",
        "llama.cpp",
        "llm-small.service: Main process exited, code=exited, status=1/FAILURE\n"
        "llm-small.service: Failed with result 'exit-code'.\n"
        "llm-small.service: Scheduled restart job, restart counter is at 5.\n",
        "starts and then dies",
    ),
)
