rule checkpoint:
    output:
        encoder="<results>/pretrained/{model}/step-{step}.safetensors",
    log:
        "<logs>/pretrain/{model}/step-{step}.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=8000,
        runtime=240,
    params:
        settings=get_checkpoint_settings,
        code=code_digest("pretraining", "encoders", "weights"),
    message:
        "{wildcards.model} after {wildcards.step} steps of pre-training"
    shell:
        "task-arithmetic checkpoint --settings {params.settings:q} --output {output.encoder}"
        " --threads {threads} --log {log}"


rule probe_heads:
    input:
        encoder=get_start_encoder,
        examples=expand("<results>/datasets/{dataset}/train.parquet", dataset=PROBED),
    output:
        heads=expand(
            "<results>/starts/{{model}}/{{start}}/heads/{dataset}.safetensors",
            dataset=PROBED,
        ),
    log:
        "<logs>/starts/{model}/{start}/heads.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=16000,
        runtime=120,
    params:
        settings=get_probe_settings,
        code=code_digest("probes", "networks"),
    message:
        "heads from scratch for {wildcards.model}, {wildcards.start}"
    shell:
        "task-arithmetic probe-heads --settings {params.settings:q} --encoder {input.encoder}"
        " --examples '{input.examples}' --outputs '{output.heads}' --threads {threads}"
        " --memory-mb {resources.mem_mb} --log {log}"


rule start_vectors:
    input:
        encoder=get_start_encoder,
        heads=expand(
            "<results>/starts/{{model}}/{{start}}/heads/{task}.safetensors",
            task=START_TASKS,
        ),
        examples=expand("<results>/datasets/{task}/train.parquet", task=START_TASKS),
    output:
        vectors=expand(
            "<results>/starts/{{model}}/{{start}}/{{seed}}/{{vector_mode}}/{task}.safetensors",
            task=START_TASKS,
        ),
    log:
        "<logs>/starts/{model}/{start}/{seed}/{vector_mode}/vectors.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=16000,
        runtime=480,
    params:
        settings=get_start_vectors_settings,
        code=code_digest("finetune", "vectors"),
    message:
        "task vectors of {wildcards.model} from {wildcards.start}, {wildcards.vector_mode}, seed {wildcards.seed}"
    shell:
        "task-arithmetic start-vectors --settings {params.settings:q} --encoder {input.encoder}"
        " --heads '{input.heads}' --examples '{input.examples}' --outputs '{output.vectors}'"
        " --threads {threads}"
        " --memory-mb {resources.mem_mb} --log {log}"


rule start_edits:
    input:
        unpack(get_start_edits_inputs),
    output:
        accuracies="<results>/starts/{model}/{start}/{seed}/accuracies.csv",
        errors="<results>/starts/{model}/{start}/{seed}/disentanglement.csv",
    log:
        "<logs>/starts/{model}/{start}/{seed}/edits.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=16000,
        runtime=240,
    params:
        settings=get_start_edits_settings,
        code=code_digest("experiment", "networks"),
    message:
        "edits of {wildcards.model} from {wildcards.start}, seed {wildcards.seed}"
    shell:
        "task-arithmetic start-edits --settings {params.settings:q} --encoder {input.encoder}"
        " --vectors '{input.vectors}' --heads '{input.heads}' --examples '{input.examples}'"
        " --accuracies {output.accuracies} --errors {output.errors} --threads {threads}"
        " --memory-mb {resources.mem_mb} --log {log}"


rule kernel:
    input:
        encoder=get_start_encoder,
        heads=expand(
            "<results>/starts/{{model}}/{{start}}/heads/{task}.safetensors",
            task=KERNEL_TASKS,
        ),
        examples=expand("<results>/datasets/{task}/test.parquet", task=KERNEL_TASKS),
    output:
        energies="<results>/starts/{model}/{start}/kernel.csv",
    log:
        "<logs>/starts/{model}/{start}/kernel.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=16000,
        runtime=240,
    params:
        settings=get_kernel_settings,
        code=code_digest("kernel", "disentanglement", "features"),
    message:
        "tangent kernels of {wildcards.model}, {wildcards.start}"
    shell:
        "task-arithmetic kernel --settings {params.settings:q} --encoder {input.encoder}"
        " --heads '{input.heads}' --examples '{input.examples}' --output {output.energies}"
        " --threads {threads}"
        " --memory-mb {resources.mem_mb} --log {log}"
