rule download:
    output:
        manifest="<results>/downloads/{dataset}.json",
    log:
        "<logs>/download/{dataset}.log",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=600,
    params:
        settings=get_dataset_download_settings,
        code=code_digest("downloads"),
        folder=DOWNLOADS,
    message:
        "download of {wildcards.dataset}"
    shell:
        "task-arithmetic download --settings {params.settings:q} --folder {params.folder}"
        " --manifest {output.manifest} --log {log}"


rule dataset:
    input:
        files=get_source_files,
        manifest=get_manifest,
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
        runtime=120,
    params:
        settings=get_dataset_settings,
        code=code_digest("datasets"),
    message:
        "dataset {wildcards.dataset}"
    shell:
        "task-arithmetic dataset --settings {params.settings:q} --train {output.train}"
        " --validation {output.validation} --test {output.test} --manifest '{input.manifest}'"
        " --log {log}"
