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
        gpu=1,
        mem_mb=16000,
        runtime=240,
    params:
        settings=get_finetune_settings,
        code=code_digest("finetune", "datasets"),
    message:
        "fine-tuning {wildcards.model} on {wildcards.task}, {wildcards.vector_mode}, seed {wildcards.seed}"
    shell:
        "task-arithmetic finetune --settings {params.settings:q} --encoder {input.encoder}"
        " --head {input.head} --train {input.train} --output {output.checkpoint}"
        " --training-log {output.training_log} --threads {threads} --log {log}"


rule vector:
    input:
        encoder="<results>/encoders/{model}/encoder.safetensors",
        checkpoint="<results>/checkpoints/{model}/{seed}/{vector_mode}/{task}.safetensors",
    output:
        vector="<results>/vectors/{model}/{seed}/{vector_mode}/{task}.safetensors",
    log:
        "<logs>/vector/{model}/{seed}/{vector_mode}/{task}.log",
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
