rule single_task:
    input:
        singles=get_edit_files(SINGLES, "accuracy"),
    output:
        csv="<results>/tables/single_task.csv",
        markdown="<results>/tables/single_task.md",
        latex="<results>/tables/single_task.tex",
    log:
        "<logs>/tables/single_task.log",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        settings=get_table_settings(),
        code=code_digest("tables", "rendering"),
    message:
        "table single_task"
    shell:
        "task-arithmetic table single_task --settings {params.settings:q}"
        " --singles '{input.singles}' --csv {output.csv} --markdown {output.markdown}"
        " --latex {output.latex} --log {log}"


rule task_addition:
    input:
        singles="<results>/tables/single_task.csv",
        tests=get_edit_files(["addition"], "test"),
        selections=get_edit_files(["addition"], "selection"),
    output:
        csv="<results>/tables/task_addition.csv",
        markdown="<results>/tables/task_addition.md",
        latex="<results>/tables/task_addition.tex",
    log:
        "<logs>/tables/task_addition.log",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        settings=get_table_settings(),
        code=code_digest("tables", "rendering"),
    message:
        "table task_addition"
    shell:
        "task-arithmetic table task_addition --settings {params.settings:q}"
        " --singles '{input.singles}' --tests '{input.tests}' --selections '{input.selections}'"
        " --csv {output.csv} --markdown {output.markdown} --latex {output.latex} --log {log}"


rule task_negation:
    input:
        tests=get_edit_files([f"negation-{task}" for task in TASKS], "test"),
        selections=get_edit_files([f"negation-{task}" for task in TASKS], "selection"),
    output:
        csv="<results>/tables/task_negation.csv",
        markdown="<results>/tables/task_negation.md",
        latex="<results>/tables/task_negation.tex",
    log:
        "<logs>/tables/task_negation.log",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        settings=get_table_settings(),
        code=code_digest("tables", "rendering"),
    message:
        "table task_negation"
    shell:
        "task-arithmetic table task_negation --settings {params.settings:q}"
        " --tests '{input.tests}' --selections '{input.selections}'"
        " --csv {output.csv} --markdown {output.markdown} --latex {output.latex} --log {log}"


rule summary:
    input:
        tables=expand("<results>/tables/{table}.csv", table=TABLES),
        curves=get_edit_files(["addition"], "validation"),
    output:
        metrics="<results>/summary/metrics.json",
        mean_curves="<results>/summary/mean_curves.csv",
    log:
        "<logs>/summary.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        code=code_digest("summaries"),
    message:
        "summary of the tables"
    shell:
        "task-arithmetic summary --tables '{input.tables}' --curves '{input.curves}'"
        " --metrics {output.metrics} --mean-curves {output.mean_curves} --log {log}"
