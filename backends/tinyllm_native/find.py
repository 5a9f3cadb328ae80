import os
from pathlib import Path
def library_path(): return Path(os.environ.get("NATIVE_LIB","/tmp/lib/AVX512VNNI.so"))
