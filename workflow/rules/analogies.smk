rule analogy_vectors:
    input:
        encoder="<results>/encoders/{model}/encoder.safetensors",
        heads=get_style_files("<results>/heads/{{model}}/{style}.safetensors"),
        train=get_style_files("<results>/datasets/{style}/train.parquet"),
    output:
        vectors="<results>/analogies/{model}/{seed}/{vector_mode}/{styles}.safetensors",
        record="<results>/analogies/{model}/{seed}/{vector_mode}/{styles}.safetensors.lineage.json",
    log:
        "<logs>/analogy_vectors/{model}/{seed}/{vector_mode}/{styles}.log",
    cache: SHARED_CACHE
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=16000,
        runtime=720,
    params:
        settings=get_analogy_vectors_settings,
        code=code_digest("analogies"),
    message:
        "sub-populations of {wildcards.styles}, {wildcards.model}, {wildcards.vector_mode}, seed {wildcards.seed}"
    shell:
        # Replaces the shell, so that a scheduler's signals reach the training.
        "exec task-arithmetic analogy-vectors --settings {params.settings:q}"
        " --encoder {input.encoder} --heads '{input.heads}' --train '{input.train}'"
        " --output {output.vectors} --threads {threads}"
        " --memory-mb {resources.mem_mb} --log {log}"


rule analogies:
    input:
        encoder="<results>/encoders/{model}/encoder.safetensors",
        vectors=get_analogy_vectors,
        heads=get_style_files("<results>/heads/{{model}}/{style}.safetensors"),
        validation=get_style_files("<results>/datasets/{style}/validation.parquet"),
        test=get_style_files("<results>/datasets/{style}/test.parquet"),
        train=get_analogy_train,
    output:
        accuracies="<results>/analogies/{model}/{seed}/{mode}/{styles}.csv",
    log:
        "<logs>/analogies/{model}/{seed}/{mode}/{styles}.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=32000,
        runtime=720,
    params:
        settings=get_analogies_settings,
        code=code_digest("analogies"),
    message:
        "analogies of {wildcards.styles}, {wildcards.model}, {wildcards.mode}, seed {wildcards.seed}"
    shell:
        # Replaces the shell, so that a scheduler's signals reach the training on samples.
        "exec task-arithmetic analogies --settings {params.settings:q} --encoder {input.encoder}"
        " --vectors {input.vectors} --heads '{input.heads}' --validation '{input.validation}'"
        " --test '{input.test}' --train '{input.train}' --output {output.accuracies}"
        " --threads {threads}"
        " --memory-mb {resources.mem_mb} --log {log}"
