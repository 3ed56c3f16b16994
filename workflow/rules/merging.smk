rule merge:
    input:
        encoder="<results>/encoders/{model}/encoder.safetensors",
        vectors=get_mode_vectors,
        heads=get_task_files("<results>/heads/{{model}}/{task}.safetensors"),
        validation=get_task_files("<results>/datasets/{task}/validation.parquet"),
        test=get_task_files("<results>/datasets/{task}/test.parquet"),
        singles=get_mode_singles,
    output:
        curves="<results>/merging/{model}/{seed}/{mode}/validation.csv",
        selection="<results>/merging/{model}/{seed}/{mode}/selection.csv",
        test="<results>/merging/{model}/{seed}/{mode}/test.csv",
    log:
        "<logs>/merging/{model}/{seed}/{mode}.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=32000,
        runtime=240,
    params:
        settings=get_merge_settings,
        code=code_digest("merging", "measuring", "coefficients"),
    message:
        "merged models, {wildcards.mode}, seed {wildcards.seed}"
    shell:
        "task-arithmetic merge --settings {params.settings:q} --encoder {input.encoder}"
        " --vectors '{input.vectors}' --heads '{input.heads}'"
        " --validation '{input.validation}' --test '{input.test}' --singles '{input.singles}'"
        " --curves {output.curves} --selection {output.selection} --output {output.test}"
        " --threads {threads}"
        " --memory-mb {resources.mem_mb} --log {log}"


rule nonlinear_subsets:
    input:
        encoder="<results>/encoders/{model}/encoder.safetensors",
        vectors=get_mode_vectors,
        heads=get_task_files("<results>/heads/{{model}}/{task}.safetensors"),
        validation=get_task_files("<results>/datasets/{task}/validation.parquet"),
        test=get_task_files("<results>/datasets/{task}/test.parquet"),
        singles=get_mode_singles,
    output:
        subsets="<results>/subsets/{model}/{seed}/nonlinear/subsets.csv",
        ensemble="<results>/subsets/{model}/{seed}/nonlinear/ensemble.csv",
    log:
        "<logs>/subsets/{model}/{seed}/nonlinear.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=32000,
        runtime=240,
    params:
        settings=get_subsets_settings,
        code=code_digest("measuring"),
    message:
        "sums over subsets, nonlinear, seed {wildcards.seed}"
    shell:
        "task-arithmetic subsets --settings {params.settings:q} --encoder {input.encoder}"
        " --vectors '{input.vectors}' --heads '{input.heads}'"
        " --validation '{input.validation}' --test '{input.test}' --singles '{input.singles}'"
        " --output {output.subsets} --ensemble {output.ensemble} --threads {threads}"
        " --memory-mb {resources.mem_mb} --log {log}"


rule tangent_subsets:
    input:
        manifests=get_task_files("<results>/features/{{model}}/{{seed}}/{task}.json"),
        heads=get_task_files("<results>/heads/{{model}}/{task}.safetensors"),
        singles=get_mode_singles,
    output:
        subsets="<results>/subsets/{model}/{seed}/{tangent_mode}/subsets.csv",
        ensemble="<results>/subsets/{model}/{seed}/{tangent_mode}/ensemble.csv",
        per_task="<results>/subsets/{model}/{seed}/{tangent_mode}/per_task.csv",
        coefficients="<results>/subsets/{model}/{seed}/{tangent_mode}/coefficients.csv",
    log:
        "<logs>/subsets/{model}/{seed}/{tangent_mode}.log",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        settings=get_tangent_subsets_settings,
        code=code_digest("subsets", "columns"),
        store=COLUMN_STORE,
    message:
        "sums over all subsets, {wildcards.tangent_mode}, seed {wildcards.seed}"
    shell:
        "task-arithmetic tangent-subsets --settings {params.settings:q} --store {params.store}"
        " --manifests '{input.manifests}' --heads '{input.heads}' --singles '{input.singles}'"
        " --output {output.subsets} --ensemble {output.ensemble} --per-task {output.per_task}"
        " --coefficients {output.coefficients} --log {log}"


rule variants:
    input:
        encoder="<results>/encoders/{model}/encoder.safetensors",
        head="<results>/heads/{model}/{task}.safetensors",
        train="<results>/datasets/{task}/train.parquet",
    output:
        vectors="<results>/variants/{model}/{seed}/{task}.safetensors",
        record="<results>/variants/{model}/{seed}/{task}.safetensors.lineage.json",
    log:
        "<logs>/variants/{model}/{seed}/{task}.log",
    cache: SHARED_CACHE
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=16000,
        runtime=720,
    params:
        settings=get_variants_settings,
        code=code_digest("variants"),
    message:
        "variants of fine-tuning {wildcards.model} on {wildcards.task}, seed {wildcards.seed}"
    shell:
        # Replaces the shell, so that a scheduler's signals reach the training.
        "exec task-arithmetic variants --settings {params.settings:q} --encoder {input.encoder}"
        " --head {input.head} --train {input.train} --output {output.vectors}"
        " --threads {threads}"
        " --memory-mb {resources.mem_mb} --log {log}"


rule negation_baselines:
    input:
        encoder="<results>/encoders/{model}/encoder.safetensors",
        vectors=get_mode_vectors,
        variants=get_task_files(
            "<results>/variants/{{model}}/{{seed}}/{task}.safetensors"
        ),
        heads=[
            *get_task_files("<results>/heads/{{model}}/{task}.safetensors"),
            f"<results>/heads/{{model}}/{config['control']}.safetensors",
        ],
        validation=[
            *get_task_files("<results>/datasets/{task}/validation.parquet"),
            f"<results>/datasets/{config['control']}/validation.parquet",
        ],
        test=[
            *get_task_files("<results>/datasets/{task}/test.parquet"),
            f"<results>/datasets/{config['control']}/test.parquet",
        ],
    output:
        curves="<results>/negation_baselines/{model}/{seed}/validation.csv",
        selection="<results>/negation_baselines/{model}/{seed}/selection.csv",
        test="<results>/negation_baselines/{model}/{seed}/test.csv",
    log:
        "<logs>/negation_baselines/{model}/{seed}.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=32000,
        runtime=240,
    params:
        settings=get_baselines_settings,
        code=code_digest("baselines"),
    message:
        "baselines of negation, seed {wildcards.seed}"
    shell:
        "task-arithmetic negation-baselines --settings {params.settings:q}"
        " --encoder {input.encoder} --vectors '{input.vectors}' --variants '{input.variants}'"
        " --heads '{input.heads}' --validation '{input.validation}' --test '{input.test}'"
        " --curves {output.curves} --selection {output.selection} --output {output.test}"
        " --threads {threads}"
        " --memory-mb {resources.mem_mb} --log {log}"


rule ablations:
    input:
        encoder="<results>/encoders/{model}/encoder.safetensors",
        vectors=get_ablation_files(
            "<results>/vectors/{{model}}/{{seed}}/nonlinear/{task}.safetensors"
        ),
        variants=get_ablation_files(
            "<results>/variants/{{model}}/{{seed}}/{task}.safetensors"
        ),
        heads=get_ablation_files("<results>/heads/{{model}}/{task}.safetensors"),
        validation=get_ablation_files("<results>/datasets/{task}/validation.parquet"),
        test=get_ablation_files("<results>/datasets/{task}/test.parquet"),
        singles=get_ablation_files(
            "<results>/edits/{{model}}/{{seed}}/nonlinear/single-{task}/accuracy.csv"
        ),
    output:
        runs="<results>/ablations/{model}/{seed}/runs.csv",
    log:
        "<logs>/ablations/{model}/{seed}.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=32000,
        runtime=240,
    params:
        settings=get_ablations_settings,
        code=code_digest("ablations", "variants"),
    message:
        "ablations of addition, seed {wildcards.seed}"
    shell:
        "task-arithmetic ablations --settings {params.settings:q} --encoder {input.encoder}"
        " --vectors '{input.vectors}' --variants '{input.variants}' --heads '{input.heads}'"
        " --validation '{input.validation}' --test '{input.test}' --singles '{input.singles}'"
        " --output {output.runs} --threads {threads}"
        " --memory-mb {resources.mem_mb} --log {log}"


rule similarity:
    input:
        vectors=get_trained_vectors,
    output:
        cosines="<results>/similarity/{model}/{seed}/cosines.csv",
    log:
        "<logs>/similarity/{model}/{seed}.log",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=16000,
        runtime=60,
    params:
        settings=get_similarity_settings,
        code=code_digest("similarity"),
    message:
        "cosine similarity of task vectors, seed {wildcards.seed}"
    shell:
        "task-arithmetic similarity --settings {params.settings:q} --vectors '{input.vectors}'"
        " --output {output.cosines} --log {log}"


rule merging_table:
    input:
        measured=get_merging_measured,
        tables=get_merging_references,
    output:
        csv="<results>/tables/{merging_table}.csv",
        markdown="<results>/tables/{merging_table}.md",
        latex="<results>/tables/{merging_table}.tex",
    log:
        "<logs>/tables/{merging_table}.log",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        settings=get_merging_table_settings,
        code=code_digest("merging_tables", "merging_rendering"),
    message:
        "table {wildcards.merging_table}"
    shell:
        "task-arithmetic merging-table --settings {params.settings:q}"
        " --measured '{input.measured}' --tables '{input.tables}' --csv {output.csv}"
        " --markdown {output.markdown} --latex {output.latex} --log {log}"


rule merging_figure:
    input:
        tables=get_merging_figure_tables,
    output:
        png=report(
            "<results>/figures/{merging_figure}.png",
            caption="../report/merging_figure.rst",
            **chapter_of("merging_figure", "figure"),
        ),
        pdf="<results>/figures/{merging_figure}.pdf",
    log:
        "<logs>/figures/{merging_figure}.log",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        settings=get_merging_figure_settings,
        code=code_digest("merging_figures"),
    message:
        "figure {wildcards.merging_figure}"
    shell:
        "task-arithmetic merging-figure --settings {params.settings:q}"
        " --tables '{input.tables}' --png {output.png} --pdf {output.pdf} --log {log}"
