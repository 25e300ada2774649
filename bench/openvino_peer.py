"""OpenVINO GenAI in a process of its own: `python openvino_peer.py FOLDER SLOTS THREADS`.

A line of standard input is [prompts, tokens]: all are asked at once, and answered by the number of tokens at the end.
"""

import json
import sys

import numpy as np
import openvino
import openvino_genai

folder, slots, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
plan = openvino_genai.SchedulerConfig()
# As long as the longest prompt measured, which is then one step.
plan.max_num_seqs, plan.max_num_batched_tokens = slots, 512
plan.num_kv_blocks = slots * 32
pipeline = openvino_genai.ContinuousBatchingPipeline(folder, plan, "CPU", {"INFERENCE_NUM_THREADS": threads})
for line in sys.stdin:
    prompts, tokens = json.loads(line)
    # It wants an end of text, also where none is to end anything.
    config = openvino_genai.GenerationConfig(max_new_tokens=tokens, eos_token_id=0, ignore_eos=True, do_sample=False)
    handles = [
        pipeline.add_request(number, openvino.Tensor(np.array([prompt], np.int64)), config)
        for number, prompt in enumerate(prompts)
    ]
    while pipeline.has_non_finished_requests():
        pipeline.step()
    outputs = [output for handle in handles for output in handle.read_all()]
    print(sum(len(output.generated_ids) for output in outputs), flush=True)
