rule pretrain:
    output:
        encoder="<results>/pretrained/{model}/encoder.safetensors",
        record="<results>/pretrained/{model}/encoder.safetensors.lineage.json",
    log:
        "<logs>/pretrain/{model}.log",
    cache: SHARED_CACHE
    conda:
        "../../envs/environment.yaml"
    threads: 2
    resources:
        gpu=1,
        mem_mb=8000,
        runtime=240,
    params:
        settings=get_pretraining_settings,
        code=code_digest("pretraining", "encoders"),
    message:
        "pre-training {wildcards.model}"
    shell:
        "task-arithmetic pretrain --settings {params.settings:q} --output {output.encoder}"
        " --threads {threads} --log {log}"


rule download_weights:
    output:
        weights="<results>/downloads/{model}/encoder.weights",
        description="<results>/downloads/{model}/encoder.json",
    log:
        "<logs>/download/{model}/encoder.log",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    threads: 1
    params:
        settings=get_weights_download_settings,
        code=code_digest("weights"),
    message:
        "downloading the weights of {wildcards.model}"
    shell:
        "task-arithmetic download-weights --settings {params.settings:q}"
        " --output {output.weights} --description {output.description} --log {log}"


rule encoder:
    input:
        weights=get_encoder_weights,
        description=get_encoder_description,
    output:
        encoder="<results>/encoders/{model}/encoder.safetensors",
        record="<results>/encoders/{model}/encoder.safetensors.lineage.json",
    log:
        "<logs>/encoder/{model}.log",
    cache: SHARED_CACHE
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=30,
    params:
        settings=get_encoder_settings,
        code=code_digest("weights"),
    message:
        "encoder {wildcards.model}"
    shell:
        "task-arithmetic encoder --settings {params.settings:q} --source '{input.weights}'"
        " --description '{input.description}' --output {output.encoder} --log {log}"


rule head:
    input:
        encoder="<results>/encoders/{model}/encoder.safetensors",
        # Without examples if the control has none for training; the class names are there.
        examples="<results>/datasets/{dataset}/train.parquet",
    output:
        head="<results>/heads/{model}/{dataset}.safetensors",
        record="<results>/heads/{model}/{dataset}.safetensors.lineage.json",
    log:
        "<logs>/head/{model}/{dataset}.log",
    cache: SHARED_CACHE
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=30,
    params:
        settings=get_head_settings,
        code=code_digest("encoders", "splits", "class_names"),
    message:
        "zero-shot head of {wildcards.dataset} for {wildcards.model}"
    shell:
        "task-arithmetic head --settings {params.settings:q} --encoder {input.encoder}"
        " --examples {input.examples} --output {output.head} --threads {threads} --log {log}"
