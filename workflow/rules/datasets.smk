rule dataset:
    input:
        get_source_files,
    output:
        train="<results>/datasets/{dataset}/train.parquet",
        validation="<results>/datasets/{dataset}/validation.parquet",
        test="<results>/datasets/{dataset}/test.parquet",
        # The cache between workflows restores outputs: records go with their artifacts.
        train_record="<results>/datasets/{dataset}/train.parquet.lineage.json",
        validation_record="<results>/datasets/{dataset}/validation.parquet.lineage.json",
        test_record="<results>/datasets/{dataset}/test.parquet.lineage.json",
    log:
        "<logs>/dataset/{dataset}.log",
    cache: SHARED_CACHE
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        settings=get_dataset_settings,
        code=code_digest("datasets"),
    message:
        "dataset {wildcards.dataset}"
    shell:
        "task-arithmetic dataset --settings {params.settings:q} --train {output.train}"
        " --validation {output.validation} --test {output.test} --log {log}"
