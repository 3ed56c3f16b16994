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
