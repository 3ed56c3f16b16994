rule linear_weights:
    input:
        encoder="<results>/encoders/{model}/encoder.safetensors",
        vectors=expand(
            "<results>/vectors/{{model}}/{{seed}}/linear/{task}.safetensors",
            task=TASKS,
        ),
        heads=expand("<results>/heads/{{model}}/{task}.safetensors", task=TASKS),
        examples=expand("<results>/datasets/{task}/test.parquet", task=TASKS),
    output:
        curve="<results>/analyses/{model}/{seed}/linear_weights.csv",
    log:
        "<logs>/analyses/{model}/{seed}/linear_weights.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=16000,
        runtime=60,
    params:
        settings=get_linear_weights_settings,
        code=code_digest("networks", "curves", "regimes"),
    message:
        "network at linearized weights, {wildcards.model}, seed {wildcards.seed}"
    shell:
        "task-arithmetic linear-weights --settings {params.settings:q}"
        " --encoder {input.encoder} --vectors '{input.vectors}' --heads '{input.heads}'"
        " --examples '{input.examples}' --output {output.curve} --threads {threads}"
        " --memory-mb {resources.mem_mb} --log {log}"


rule linear_regime:
    input:
        singles=get_linear_regime_inputs(),
        heads=expand(
            "<results>/heads/{model}/{task}.safetensors",
            model=list(config["models"])[:1],
            task=TASKS,
        ),
    output:
        csv="<results>/tables/linear_regime.csv",
    log:
        "<logs>/tables/linear_regime.log",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        settings=get_finding_settings(),
        code=code_digest("regimes"),
    message:
        "table linear_regime"
    shell:
        "task-arithmetic linear-regime --settings {params.settings:q}"
        " --singles '{input.singles}' --heads '{input.heads}' --csv {output.csv} --log {log}"


rule disentanglement:
    input:
        encoder="<results>/encoders/{model}/encoder.safetensors",
        vectors=expand(
            "<results>/vectors/{{model}}/{{seed}}/nonlinear/{task}.safetensors",
            task=TASKS,
        ),
        heads=expand("<results>/heads/{{model}}/{task}.safetensors", task=TASKS),
        examples=expand("<results>/datasets/{task}/test.parquet", task=TASKS),
    output:
        errors="<results>/analyses/{model}/{seed}/nonlinear/disentanglement.csv",
    log:
        "<logs>/analyses/{model}/{seed}/nonlinear/disentanglement.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=16000,
        runtime=240,
    params:
        settings=get_disentanglement_settings("nonlinear"),
        code=code_digest("disentanglement", "networks"),
    message:
        "disentanglement errors of {wildcards.model}, nonlinear, seed {wildcards.seed}"
    shell:
        "task-arithmetic disentanglement --settings {params.settings:q}"
        " --encoder {input.encoder} --vectors '{input.vectors}' --heads '{input.heads}'"
        " --examples '{input.examples}' --output {output.errors} --threads {threads}"
        " --memory-mb {resources.mem_mb} --log {log}"


rule tangent_disentanglement:
    input:
        manifests=expand(
            "<results>/features/{{model}}/{{seed}}/{task}.json", task=TASKS
        ),
        heads=expand("<results>/heads/{{model}}/{task}.safetensors", task=TASKS),
    output:
        errors="<results>/analyses/{model}/{seed}/{tangent_mode}/disentanglement.csv",
    log:
        "<logs>/analyses/{model}/{seed}/{tangent_mode}/disentanglement.log",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=30,
    params:
        settings=get_disentanglement_settings("tangent"),
        code=code_digest("disentanglement", "columns"),
        store=COLUMN_STORE,
    message:
        "disentanglement errors of {wildcards.model}, {wildcards.tangent_mode}, seed {wildcards.seed}"
    shell:
        "task-arithmetic tangent-disentanglement --settings {params.settings:q}"
        " --store {params.store} --manifests '{input.manifests}' --heads '{input.heads}'"
        " --output {output.errors} --log {log}"


rule costs:
    input:
        unpack(get_costs_inputs),
    output:
        csv="<results>/analyses/{model}/{seed}/costs.csv",
    log:
        "<logs>/analyses/{model}/{seed}/costs.log",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        settings=get_costs_settings,
        code=code_digest("costs"),
    message:
        "costs of the modes of {wildcards.model}, seed {wildcards.seed}"
    shell:
        "task-arithmetic costs --settings {params.settings:q}"
        " --checkpoints '{input.checkpoints}' --features '{input.features}'"
        " --curves '{input.curves}' --tables '{input.tables}' --csv {output.csv} --log {log}"


rule collected_table:
    input:
        parts=get_collected_parts,
    output:
        csv="<results>/tables/{collected}.csv",
    log:
        "<logs>/tables/{collected}.log",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        settings=get_collected_settings,
        code=code_digest("artifacts"),
    message:
        "table {wildcards.collected}"
    shell:
        "task-arithmetic collect --settings {params.settings:q} --parts '{input.parts}'"
        " --csv {output.csv} --log {log}"


rule finding:
    input:
        tables=get_finding_tables,
    output:
        png=report(
            "<results>/figures/{finding}.png",
            caption="../report/finding.rst",
            **chapter_of("finding", "figure"),
        ),
        pdf="<results>/figures/{finding}.pdf",
    log:
        "<logs>/figures/{finding}.log",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        settings=get_finding_settings(),
        code=code_digest("findings", "findings_starts"),
    message:
        "figure {wildcards.finding}"
    shell:
        "task-arithmetic finding {wildcards.finding} --settings {params.settings:q}"
        " --tables '{input.tables}' --png {output.png} --pdf {output.pdf} --log {log}"
