rule features:
    input:
        encoder="<results>/encoders/{model}/encoder.safetensors",
        examples=[
            "<results>/datasets/{dataset}/validation.parquet",
            "<results>/datasets/{dataset}/test.parquet",
        ],
        vectors=get_tangent_vector_files,
    output:
        manifest="<results>/features/{model}/{seed}/{dataset}.json",
    log:
        "<logs>/features/{model}/{seed}/{dataset}.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=16000,
        runtime=120,
    params:
        settings=get_features_settings,
        code=code_digest("features"),
        store=COLUMN_STORE,
    message:
        "tangent features of {wildcards.dataset}, seed {wildcards.seed}"
    shell:
        "task-arithmetic features --settings {params.settings:q} --encoder {input.encoder}"
        " --examples '{input.examples}' --vectors '{input.vectors}' --store {params.store}"
        " --output {output.manifest} --threads {threads} --memory-mb {resources.mem_mb} --log {log}"


rule nonlinear_curve:
    input:
        unpack(get_nonlinear_curve_inputs),
    output:
        curve="<results>/edits/{model}/{seed}/nonlinear/{edit}/{curve}.csv",
    log:
        "<logs>/curve/{model}/{seed}/nonlinear/{edit}/{curve}.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=16000,
        runtime=120,
    params:
        settings=get_nonlinear_curve_settings,
        code=code_digest("features", "curves"),
    message:
        "{wildcards.curve} curve of {wildcards.edit}, nonlinear, seed {wildcards.seed}"
    shell:
        "task-arithmetic curve --settings {params.settings:q} --encoder {input.encoder}"
        " --vectors '{input.vectors}' --heads '{input.heads}' --examples '{input.examples}'"
        " --selection '{input.selection}' --output {output.curve} --threads {threads}"
        " --memory-mb {resources.mem_mb} --log {log}"


rule tangent_curve:
    input:
        manifests=expand(
            "<results>/features/{{model}}/{{seed}}/{dataset}.json", dataset=DATASETS
        ),
        heads=expand(
            "<results>/heads/{{model}}/{dataset}.safetensors", dataset=DATASETS
        ),
        selection=get_tangent_selection,
    output:
        curve="<results>/edits/{model}/{seed}/{tangent_mode}/all/{curve}.csv",
    log:
        "<logs>/curve/{model}/{seed}/{tangent_mode}/all/{curve}.log",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=30,
    params:
        settings=get_tangent_curve_settings,
        code=code_digest("curves", "columns"),
        store=COLUMN_STORE,
    message:
        "{wildcards.curve} curves of all edits, {wildcards.tangent_mode}, seed {wildcards.seed}"
    shell:
        "task-arithmetic tangent-curve --settings {params.settings:q} --store {params.store}"
        " --manifests '{input.manifests}' --heads '{input.heads}'"
        " --selection '{input.selection}' --output {output.curve} --log {log}"


rule selection:
    input:
        curve="<results>/edits/{model}/{seed}/{mode}/{edit}/validation.csv",
        singles=get_single_accuracies,
    output:
        selection="<results>/edits/{model}/{seed}/{mode}/{edit}/selection.csv",
    log:
        "<logs>/selection/{model}/{seed}/{mode}/{edit}.log",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        settings=get_selection_settings,
        code=code_digest("coefficients"),
    message:
        "selection of {wildcards.edit}, {wildcards.mode}, seed {wildcards.seed}"
    shell:
        "task-arithmetic select --settings {params.settings:q} --curve {input.curve}"
        " --singles '{input.singles}' --output {output.selection} --log {log}"
