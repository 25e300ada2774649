# What turns ONNX graphs into TensorRT plans: the TensorRT of tritonserver:26.07-py3, for a plan loads under no other.
FROM nvcr.io/nvidia/tensorrt:26.07-py3
RUN pip install --no-cache-dir polygraphy==0.53.6
