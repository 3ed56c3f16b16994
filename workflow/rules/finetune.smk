rule finetune:
    input:
        encoder="<results>/encoders/{model}/encoder.safetensors",
        head="<results>/heads/{model}/{task}.safetensors",
        train="<results>/datasets/{task}/train.parquet",
    output:
        checkpoint="<results>/checkpoints/{model}/{seed}/{vector_mode}/{task}.safetensors",
        training_log="<results>/checkpoints/{model}/{seed}/{vector_mode}/{task}.csv",
        record="<results>/checkpoints/{model}/{seed}/{vector_mode}/{task}.safetensors.lineage.json",
        log_record="<results>/checkpoints/{model}/{seed}/{vector_mode}/{task}.csv.lineage.json",
    log:
        "<logs>/finetune/{model}/{seed}/{vector_mode}/{task}.log",
    cache: SHARED_CACHE
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        gpu=config["gpus_per_finetune"],
        mem_mb=16000,
        runtime=240,
    params:
        settings=get_finetune_settings,
        code=code_digest("finetune"),
    message:
        "fine-tuning {wildcards.model} on {wildcards.task}, {wildcards.vector_mode}, seed {wildcards.seed}"
    shell:
        # Replaces the shell, so that a scheduler's signals reach the training and it is waited for.
        "exec task-arithmetic finetune --settings {params.settings:q} --encoder {input.encoder}"
        " --head {input.head} --train {input.train} --output {output.checkpoint}"
        " --training-log {output.training_log} --processes {resources.gpu} --threads {threads}"
        " --memory-mb {resources.mem_mb} --log {log}"


rule download_checkpoint:
    output:
        weights="<results>/downloads/{model}/{vector_mode}/{task}.weights",
    log:
        "<logs>/download/{model}/{vector_mode}/{task}.log",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    threads: 1
    params:
        settings=get_checkpoint_download_settings,
        code=code_digest("weights"),
    message:
        "downloading {wildcards.model} fine-tuned on {wildcards.task}, {wildcards.vector_mode}"
    shell:
        "task-arithmetic download-weights --settings {params.settings:q}"
        " --output {output.weights} --log {log}"


rule import_checkpoint:
    input:
        encoder="<results>/encoders/{model}/encoder.safetensors",
        weights=get_foreign_checkpoint,
    output:
        # Of no seed: the vectors of all seeds are made of it.
        checkpoint="<results>/imported/{model}/{vector_mode}/{task}.safetensors",
    log:
        "<logs>/import/{model}/{vector_mode}/{task}.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=16000,
        runtime=30,
    params:
        settings=get_import_settings,
        code=code_digest("imports", "encoders"),
    message:
        "importing {wildcards.model} fine-tuned on {wildcards.task}, {wildcards.vector_mode}"
    shell:
        "task-arithmetic import checkpoint {input.weights:q} --settings {params.settings:q}"
        " --encoder {input.encoder} --output {output.checkpoint} --log {log}"


rule vector:
    input:
        encoder="<results>/encoders/{model}/encoder.safetensors",
        checkpoint=get_checkpoint,
    output:
        vector="<results>/vectors/{model}/{seed}/{vector_mode}/{task}.safetensors",
    log:
        "<logs>/vector/{model}/{seed}/{vector_mode}/{task}.log",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=30,
    params:
        code=code_digest("vectors"),
    message:
        "task vector of {wildcards.task}, {wildcards.vector_mode}, seed {wildcards.seed}"
    shell:
        "task-arithmetic vector --encoder {input.encoder} --checkpoint {input.checkpoint}"
        " --output {output.vector} --log {log}"
